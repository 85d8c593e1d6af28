// SPDX-License-Identifier: Apache-2.0
// Text windows on a terminal (libnewt): menus, forms, lists with check boxes, questions, and a view of progress. One
// screen at a time; not thread-safe. Escape and F12 mean "back" everywhere.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace kvmport {

class NewtScreen {
 public:
  /// Error TERMINAL_UNUSABLE when the terminal can't show windows.
  explicit NewtScreen(const std::string& title);
  ~NewtScreen();
  NewtScreen(const NewtScreen&) = delete;
  NewtScreen& operator=(const NewtScreen&) = delete;

  /// The chosen line, or nothing.
  std::optional<std::size_t> menu(const std::string& title, const std::string& text,
                                  const std::vector<std::string>& lines, std::size_t selected = 0);
  struct Field {
    std::string label, value;
  };
  /// Changes the fields' values; false: back, and nothing changed.
  bool form(const std::string& title, const std::string& text, std::vector<Field>& fields);
  struct Item {
    std::string text;
    bool checked = false;
  };
  bool checklist(const std::string& title, const std::string& text, std::vector<Item>& items);
  bool ask(const std::string& title, const std::string& text, const std::string& yes, const std::string& no);
  void tell(const std::string& title, const std::string& text);
  /// A long text that can be scrolled.
  void show(const std::string& title, const std::string& text);

  /// A window that stays while `work` runs, for what takes some seconds.
  void wait(const std::string& title, const std::string& text, const std::function<void()>& work);

  struct Progress {
    std::string stage, text, message;
    unsigned permille = 0;
  };
  /// Shows what `turn` returns each `period` until it returns nothing; `buttons` calls it with the number of a button
  /// that was pressed, and its label may change (labels of the next turn).
  void progress(const std::string& title, std::chrono::milliseconds period,
                const std::function<std::optional<Progress>()>& turn, const std::vector<std::string>& buttons,
                const std::function<void(std::size_t button)>& pressed);

  /// Gives the terminal to something else for a while.
  void lend(const std::function<void()>& work);
};

} // namespace kvmport
