// SPDX-License-Identifier: Apache-2.0
// Turns the bytes of a guest's console into lines of plain text: escape sequences, carriage returns and overstrikes are
// resolved, what is not UTF-8 becomes '?'. What stands after the last line end is the partial line, where prompts are.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

namespace kvmport {

/// One console. One thread at a time. Memory stays bounded whatever the guest sends.
class ConsoleText {
 public:
  /// Longer lines are cut into pieces of this many bytes.
  static constexpr std::size_t max_line = 512;
  /// Gets each whole line (never empty) without its end.
  using LineSink = std::function<void(std::string_view)>;

  void feed(std::string_view bytes, const LineSink& line);
  /// The unfinished last line; stays until its end comes.
  const std::string& partial() const { return partial_; }
  /// Ends the partial line as if a line end had come.
  void flush(const LineSink& line);

 private:
  enum class Mode { text, escape, csi, string };
  void plain(char c, const LineSink& line);
  void end_csi(char final, const LineSink& line);

  Mode mode_ = Mode::text;
  std::string partial_;
  std::size_t escape_length_ = 0;
  bool carriage_return_ = false; ///< the next character, unless a line end, overwrites the line
};

/// `text` as valid UTF-8 without control characters: bytes that are neither become '?'.
std::string plain_text(std::string_view text);

} // namespace kvmport
