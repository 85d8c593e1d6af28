// SPDX-License-Identifier: Apache-2.0
// An INI-like text (NetworkManager's keyfiles, systemd's units) edited line by line; what is not edited stays byte for
// byte. To read one, linux_guest::parse_ini() is enough. No errors; one thread.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace kvmport {

class IniText {
 public:
  explicit IniText(std::string_view text);

  struct Entry {
    std::size_t line = 0;    ///< its place, for the edits; valid until the next one that adds or removes
    std::size_t section = 0; ///< sections of one name count as several
    std::string name, key, value;
  };
  /// All "key=value" lines in order.
  std::vector<Entry> entries() const;
  void set(const Entry& entry, const std::string& key, const std::string& value);
  void remove(const Entry& entry);
  /// Sets the first one of this key in sections of this name and removes the others; adds it when there is none.
  void set(std::string_view section, const std::string& key, const std::string& value);
  /// Behind the last line of the first section of this name, which is made when there is none.
  void add(std::string_view section, const std::string& key, const std::string& value);
  std::string text() const;

 private:
  std::vector<std::string> lines_; ///< with their ends
};

} // namespace kvmport
