// SPDX-License-Identifier: Apache-2.0
#include "cmd/newt_screen.h"

#include "base/error.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <newt.h>

namespace kvmport {
namespace {

constexpr int key_escape = 27;

/// newt takes char* where it changes nothing.
char* text_of(const std::string& text) {
  return const_cast<char*>(text.c_str()); // NOLINT(cppcoreguidelines-pro-type-const-cast)
}

int screen_width() {
  int columns = 80, rows = 24;
  ::newtGetScreenSize(&columns, &rows);
  return columns;
}
int screen_height() {
  int columns = 80, rows = 24;
  ::newtGetScreenSize(&columns, &rows);
  return rows;
}
int text_width() {
  return std::clamp(screen_width() - 12, 30, 68);
}

/// A window with a text and a row of buttons below whatever stands between them.
class Window {
 public:
  Window(const std::string& title, const std::string& text, newtComponent middle, int middle_height,
         const std::vector<std::string>& buttons)
      : form_(::newtForm(nullptr, nullptr, 0)) {
    const int width = text_width();
    newtComponent words = ::newtTextboxReflowed(1, 0, text_of(text), width, 5, 5, 0);
    const int lines = text.empty() ? 0 : ::newtTextboxGetNumLines(words);
    const int top = lines == 0 ? 1 : lines + 1;
    const int height = std::min(top + middle_height + 5, screen_height() - 4);
    ::newtCenteredWindow(static_cast<unsigned>(width + 2), static_cast<unsigned>(height), title.c_str());
    if (lines == 0)
      ::newtComponentDestroy(words);
    else
      ::newtFormAddComponent(form_, words);
    if (middle != nullptr)
      ::newtFormAddComponent(form_, middle);
    int left = 2;
    for (const auto& label : buttons) {
      buttons_.push_back(::newtCompactButton(left, height - 2, label.c_str()));
      left += static_cast<int>(label.size()) + 6;
      ::newtFormAddComponent(form_, buttons_.back());
    }
    ::newtFormAddHotKey(form_, key_escape);
    middle_top_ = top;
  }
  ~Window() {
    ::newtFormDestroy(form_);
    ::newtPopWindow();
  }
  Window(const Window&) = delete;
  Window& operator=(const Window&) = delete;

  newtComponent form() const { return form_; }
  int middle_top() const { return middle_top_; }
  void add(newtComponent c) { ::newtFormAddComponent(form_, c); }
  /// The number of the button that ended it; nothing for Escape and F12.
  std::optional<std::size_t> run() { return ended_by(next()); }
  newtExitStruct next() const {
    newtExitStruct end{};
    ::newtFormRun(form_, &end);
    return end;
  }
  std::optional<std::size_t> ended_by(const newtExitStruct& end) const {
    for (std::size_t i = 0; i < buttons_.size(); ++i)
      if (end.reason == newtExitStruct::NEWT_EXIT_COMPONENT && end.u.co == buttons_[i])
        return i;
    return std::nullopt;
  }
  bool ended_by(const newtExitStruct& end, newtComponent c) const {
    return end.reason == newtExitStruct::NEWT_EXIT_COMPONENT && end.u.co == c;
  }

 private:
  newtComponent form_;
  std::vector<newtComponent> buttons_;
  int middle_top_ = 0;
};

/// Lines that the reflowed text takes, for places below it.
int lines_of(const std::string& text) {
  if (text.empty())
    return 0;
  newtComponent words = ::newtTextboxReflowed(1, 0, text_of(text), text_width(), 5, 5, 0);
  const int lines = ::newtTextboxGetNumLines(words);
  ::newtComponentDestroy(words);
  return lines;
}
int top_below(const std::string& text) {
  const int lines = lines_of(text);
  return lines == 0 ? 1 : lines + 1;
}

} // namespace

NewtScreen::NewtScreen(const std::string& title) {
  if (::newtInit() != 0)
    throw Error("TERMINAL_UNUSABLE", "the text dialogue can't use this terminal", "TERM is unknown or not set");
  ::newtCls();
  ::newtDrawRootText(0, 0, title.c_str());
  ::newtPushHelpLine(" Tab: next    Space: choose    Enter: press    Esc: back");
}

NewtScreen::~NewtScreen() {
  ::newtFinished();
}

std::optional<std::size_t> NewtScreen::menu(const std::string& title, const std::string& text,
                                            const std::vector<std::string>& lines, std::size_t selected) {
  const int rows = std::min(static_cast<int>(lines.size()), screen_height() - top_below(text) - 10);
  newtComponent list = ::newtListbox(
      1, top_below(text), rows, NEWT_FLAG_RETURNEXIT | (rows < static_cast<int>(lines.size()) ? NEWT_FLAG_SCROLL : 0));
  ::newtListboxSetWidth(list, text_width());
  for (std::size_t i = 0; i < lines.size(); ++i)
    ::newtListboxAppendEntry(list, lines[i].c_str(),
                             reinterpret_cast<const void*>(i)); // NOLINT(performance-no-int-to-ptr)
  ::newtListboxSetCurrent(list, static_cast<int>(selected));
  Window window(title, text, list, rows, {"OK", "Back"});
  const newtExitStruct end = window.next();
  if (window.ended_by(end, list) || window.ended_by(end) == 0)
    return reinterpret_cast<std::size_t>(::newtListboxGetCurrent(list));
  return std::nullopt;
}

bool NewtScreen::form(const std::string& title, const std::string& text, std::vector<Field>& fields) {
  const int top = top_below(text);
  std::size_t label_width = 0;
  for (const auto& field : fields)
    label_width = std::max(label_width, field.label.size());
  Window window(title, text, nullptr, static_cast<int>(fields.size()), {});
  std::vector<newtComponent> entries;
  int row = top;
  for (const auto& field : fields) {
    window.add(::newtLabel(1, row, field.label.c_str()));
    entries.push_back(::newtEntry(static_cast<int>(label_width) + 3, row++, field.value.c_str(),
                                  text_width() - static_cast<int>(label_width) - 3, nullptr, NEWT_FLAG_SCROLL));
    window.add(entries.back());
  }
  newtComponent ok = ::newtCompactButton(2, row + 1, "OK"), back = ::newtCompactButton(10, row + 1, "Back");
  window.add(ok);
  window.add(back);
  const newtExitStruct end = window.next();
  if (!window.ended_by(end, ok))
    return false;
  for (std::size_t i = 0; i < fields.size(); ++i) {
    fields[i].value = ::newtEntryGetValue(entries[i]);
    const auto begin = fields[i].value.find_first_not_of(' ');
    fields[i].value = begin == std::string::npos
                          ? ""
                          : fields[i].value.substr(begin, fields[i].value.find_last_not_of(' ') - begin + 1);
  }
  return true;
}

bool NewtScreen::checklist(const std::string& title, const std::string& text, std::vector<Item>& items) {
  const int rows = std::min(static_cast<int>(items.size()), screen_height() - top_below(text) - 10);
  newtComponent tree =
      ::newtCheckboxTree(1, top_below(text), rows, rows < static_cast<int>(items.size()) ? NEWT_FLAG_SCROLL : 0);
  ::newtCheckboxTreeSetWidth(tree, text_width());
  for (std::size_t i = 0; i < items.size(); ++i)
    ::newtCheckboxTreeAddItem(tree, items[i].text.c_str(),
                              reinterpret_cast<const void*>(i + 1), // NOLINT(performance-no-int-to-ptr)
                              items[i].checked ? NEWT_FLAG_SELECTED : 0, NEWT_ARG_APPEND, NEWT_ARG_LAST);
  Window window(title, text, tree, rows, {"OK", "Back"});
  const bool yes = window.run() == 0;
  for (std::size_t i = 0; yes && i < items.size(); ++i)
    items[i].checked = ::newtCheckboxTreeGetEntryValue(tree, reinterpret_cast<const void*>(i + 1)) !=
                       ' '; // NOLINT(performance-no-int-to-ptr)
  return yes;
}

bool NewtScreen::ask(const std::string& title, const std::string& text, const std::string& yes, const std::string& no) {
  Window window(title, text, nullptr, 0, {yes, no});
  return window.run() == 0;
}

void NewtScreen::tell(const std::string& title, const std::string& text) {
  Window window(title, text, nullptr, 0, {"OK"});
  window.run();
}

void NewtScreen::show(const std::string& title, const std::string& text) {
  const int rows = screen_height() - 11;
  newtComponent box = ::newtTextbox(1, 1, text_width(), rows, NEWT_FLAG_SCROLL | NEWT_FLAG_WRAP);
  ::newtTextboxSetText(box, text.c_str());
  Window window(title, {}, box, rows, {"OK"});
  window.run();
}

void NewtScreen::wait(const std::string& title, const std::string& text, const std::function<void()>& work) {
  Window window(title, text, nullptr, 0, {});
  ::newtDrawForm(window.form());
  ::newtRefresh();
  work();
}

void NewtScreen::progress(const std::string& title, std::chrono::milliseconds period,
                          const std::function<std::optional<Progress>()>& turn, const std::vector<std::string>& buttons,
                          const std::function<void(std::size_t button)>& pressed) {
  constexpr int rows = 7, full = 1000;
  Window window(title, {}, nullptr, rows, buttons);
  const auto line = [&](int row, int height) {
    newtComponent box = ::newtTextbox(1, row, text_width(), height, NEWT_FLAG_WRAP);
    window.add(box);
    return box;
  };
  newtComponent stage = line(1, 1), scale = ::newtScale(1, 3, text_width(), full), numbers = line(4, 1),
                message = line(6, 2);
  window.add(scale);
  ::newtFormSetTimer(window.form(), static_cast<int>(period.count()));
  while (const auto now = turn()) {
    ::newtTextboxSetText(stage, now->stage.c_str());
    ::newtTextboxSetText(numbers, now->text.c_str());
    ::newtTextboxSetText(message, now->message.c_str());
    ::newtScaleSet(scale, now->permille);
    ::newtRefresh();
    if (const auto button = window.ended_by(window.next()))
      pressed(*button);
  }
}

void NewtScreen::lend(const std::function<void()>& work) {
  ::newtSuspend();
  work();
  ::newtResume();
}

} // namespace kvmport
