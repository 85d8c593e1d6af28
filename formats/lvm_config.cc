// SPDX-License-Identifier: Apache-2.0
#include "formats/lvm_config.h"

#include "base/error.h"

#include <cctype>
#include <charconv>

namespace kvmport::lvm_config {
namespace {

constexpr unsigned deepest = 16;
constexpr std::size_t most_values = 65536;

[[noreturn]] void corrupt(const std::string& why) {
  throw Error("IMAGE_CORRUPT", "the metadata of LVM can't be understood", why);
}

class Parser {
 public:
  explicit Parser(std::string_view text) : rest_(text) {}

  /// Up to the end, or to the '}' of a section.
  Section section(unsigned depth) {
    if (depth > deepest)
      corrupt("its sections lie too deep");
    Section out;
    for (skip(); !rest_.empty() && rest_.front() != '}'; skip()) {
      if (++count_ > most_values)
        corrupt("it has too many values");
      std::string key = word();
      skip();
      if (take('{')) {
        out.sections[std::move(key)] = section(depth + 1);
        if (!take('}'))
          corrupt("a section has no end");
      } else if (take('=')) {
        out.values[std::move(key)] = values();
      } else {
        corrupt("there is neither '=' nor '{' behind " + key);
      }
    }
    if (depth == 0 && !rest_.empty())
      corrupt("there is a '}' too many");
    return out;
  }

 private:
  void skip() {
    while (!rest_.empty()) {
      if (std::isspace(static_cast<unsigned char>(rest_.front())) != 0)
        rest_.remove_prefix(1);
      else if (rest_.front() == '#')
        rest_.remove_prefix(std::min(rest_.find('\n'), rest_.size()));
      else
        return;
    }
  }
  bool take(char c) {
    if (rest_.empty() || rest_.front() != c)
      return false;
    rest_.remove_prefix(1);
    return true;
  }
  std::string word() {
    const auto end = rest_.find_first_of(" \t\r\n={}#[],\"");
    std::string name(rest_.substr(0, end));
    if (name.empty())
      corrupt("a name is missing");
    rest_.remove_prefix(name.size());
    return name;
  }

  std::vector<Value> values() {
    skip();
    if (!take('['))
      return {value()};
    std::vector<Value> list;
    for (skip(); !take(']'); skip()) {
      if (++count_ > most_values)
        corrupt("it has too many values");
      list.push_back(value());
      skip();
      if (!take(',') && (rest_.empty() || rest_.front() != ']'))
        corrupt("an array has no end");
    }
    return list;
  }

  Value value() {
    Value out;
    if (take('"')) {
      while (!take('"')) {
        if (rest_.size() > 1 && rest_.front() == '\\')
          rest_.remove_prefix(1);
        if (rest_.empty())
          corrupt("a string has no end");
        out.text += rest_.front();
        rest_.remove_prefix(1);
      }
      return out;
    }
    std::string digits = word();
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), out.number);
    if (error != std::errc{} || end != digits.data() + digits.size())
      out = {std::move(digits), 0}; // negative, or with a decimal point: nothing that is asked for
    return out;
  }

  std::string_view rest_;
  std::size_t count_ = 0;
};

const Value& single(const Section& section, std::string_view key) {
  const auto* values = section.find(key);
  if (values == nullptr || values->size() != 1)
    corrupt("the value of " + std::string(key) + " is missing");
  return values->front();
}

} // namespace

const Section* Section::section(std::string_view name) const {
  const auto found = sections.find(name);
  return found == sections.end() ? nullptr : &found->second;
}

const std::vector<Value>* Section::find(std::string_view key) const {
  const auto found = values.find(key);
  return found == values.end() ? nullptr : &found->second;
}

const std::string& Section::text(std::string_view key) const {
  return single(*this, key).text;
}

std::uint64_t Section::number(std::string_view key) const {
  return single(*this, key).number;
}

std::vector<std::string> Section::texts(std::string_view key) const {
  std::vector<std::string> list;
  if (const auto* all = find(key))
    for (const Value& value : *all)
      list.push_back(value.text);
  return list;
}

Section parse(std::string_view text) {
  return Parser(text).section(0);
}

} // namespace kvmport::lvm_config
