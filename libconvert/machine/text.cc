// SPDX-License-Identifier: Apache-2.0
#include "libconvert/machine/text.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <iconv.h>
#include <limits>

namespace kvmport {
namespace {

struct IconvCloser {
  iconv_t handle;
  ~IconvCloser() { ::iconv_close(handle); }
};

int hex_value(char c) {
  if (c >= '0' && c <= '9')
    return c - '0';
  if (c >= 'a' && c <= 'f')
    return c - 'a' + 10;
  if (c >= 'A' && c <= 'F')
    return c - 'A' + 10;
  return -1;
}

bool is_space(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}

} // namespace

std::optional<std::string> to_utf8(std::string_view text, const std::string& encoding) {
  const std::string name = lower(encoding);
  if (name.empty() || name.size() > 40 || name.find("utf-7") == 0 || name.find("utf7") == 0 ||
      name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-_.:") != std::string::npos)
    return std::nullopt;
  const iconv_t handle = ::iconv_open("UTF-8", name.c_str());
  if (handle == reinterpret_cast<iconv_t>(-1))
    return std::nullopt;
  const IconvCloser closer{handle};
  std::string in(text), out;
  std::array<char, 16384> buffer;
  char* from = in.data();
  std::size_t left = in.size();
  for (bool more = true; more;) {
    char* to = buffer.data();
    std::size_t room = buffer.size();
    const std::size_t result = ::iconv(handle, &from, &left, &to, &room);
    const int error = errno;
    out.append(buffer.data(), buffer.size() - room);
    if (result == static_cast<std::size_t>(-1) && error != E2BIG)
      return std::nullopt;
    more = left > 0;
  }
  return out;
}

std::string clean_utf8(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    const auto c = static_cast<unsigned char>(text[i]);
    const std::size_t length = c < 0x80                ? 1
                               : c >= 0xC2 && c < 0xE0 ? 2
                               : c >= 0xE0 && c < 0xF0 ? 3
                               : c >= 0xF0 && c < 0xF5 ? 4
                                                       : 0;
    bool good = length > 0 && i + length <= text.size();
    for (std::size_t k = 1; good && k < length; k++)
      good = (static_cast<unsigned char>(text[i + k]) & 0xC0) == 0x80;
    if (good && length == 1)
      good = c >= 0x20 ? c != 0x7F : c == '\n' || c == '\t';
    if (good && length == 3) { // surrogates, U+FFFE, U+FFFF and overlong forms
      const auto second = static_cast<unsigned char>(text[i + 1]), third = static_cast<unsigned char>(text[i + 2]);
      good = !(c == 0xE0 && second < 0xA0) && !(c == 0xED && second >= 0xA0) &&
             !(c == 0xEF && second == 0xBF && third >= 0xBE);
    }
    if (good && length == 4) {
      const auto second = static_cast<unsigned char>(text[i + 1]);
      good = !(c == 0xF0 && second < 0x90) && !(c == 0xF4 && second >= 0x90);
    }
    if (good)
      out.append(text.substr(i, length));
    else
      out += c == '\r' ? ' ' : '?';
    i += good ? length : 1;
  }
  return out;
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z')
      c = static_cast<char>(c - 'A' + 'a');
  return out;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && is_space(text.front()))
    text.remove_prefix(1);
  while (!text.empty() && is_space(text.back()))
    text.remove_suffix(1);
  return text;
}

bool starts_with_nocase(std::string_view text, std::string_view prefix) {
  return text.size() >= prefix.size() && lower(text.substr(0, prefix.size())) == lower(prefix);
}

std::string printable(std::string_view text, std::size_t limit) {
  std::string out = clean_utf8(text.substr(0, limit + 4));
  for (char& c : out)
    if (c == '\n' || c == '\t')
      c = ' ';
  if (text.size() > limit) {
    std::size_t end = std::min(limit, out.size());
    while (end > 0 && (static_cast<unsigned char>(out[end]) & 0xC0) == 0x80)
      end--;
    out = out.substr(0, end) + "...";
  }
  return out;
}

std::optional<std::uint64_t> parse_number(std::string_view text) {
  text = trimmed(text);
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size())
    return std::nullopt;
  return value;
}

std::optional<bool> parse_bool(std::string_view text) {
  const std::string word = lower(trimmed(text));
  if (word == "true" || word == "yes" || word == "on" || word == "1")
    return true;
  if (word == "false" || word == "no" || word == "off" || word == "0")
    return false;
  return std::nullopt;
}

std::optional<std::string> parse_mac(std::string_view text) {
  std::string digits;
  for (char c : trimmed(text)) {
    if (c == ':' || c == '-') {
      if (digits.size() % 2 != 0)
        return std::nullopt;
    } else if (hex_value(c) >= 0) {
      digits += c;
    } else {
      return std::nullopt;
    }
  }
  digits = lower(digits);
  if (digits.size() != 12 || digits == "000000000000" || (hex_value(digits[1]) & 1) != 0)
    return std::nullopt;
  for (int at = 10; at > 0; at -= 2)
    digits.insert(static_cast<std::size_t>(at), ":");
  return digits;
}

std::optional<std::string> parse_uuid(std::string_view text) {
  std::string digits;
  for (char c : text) {
    if (hex_value(c) >= 0)
      digits += c;
    else if (c != '-' && c != '{' && c != '}' && !is_space(c))
      return std::nullopt;
  }
  if (digits.size() != 32 || digits.find_first_not_of('0') == std::string::npos)
    return std::nullopt;
  digits = lower(digits);
  for (std::size_t at : {20U, 16U, 12U, 8U})
    digits.insert(at, "-");
  return digits;
}

std::optional<std::uint64_t> multiplied(std::uint64_t count, std::uint64_t factor) {
  std::uint64_t product = 0;
  if (__builtin_mul_overflow(count, factor, &product) ||
      product > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
    return std::nullopt;
  return product;
}

std::optional<std::uint64_t> parse_byte_unit(std::string_view text) {
  const std::string unit = lower(trimmed(text));
  static constexpr std::pair<std::string_view, unsigned> names[] = {
      {"b", 0},          {"byte", 0},       {"bytes", 0},     {"kb", 10},       {"kib", 10},
      {"kilobyte", 10},  {"kilobytes", 10}, {"mb", 20},       {"mib", 20},      {"megabyte", 20},
      {"megabytes", 20}, {"gb", 30},        {"gib", 30},      {"gigabyte", 30}, {"gigabytes", 30},
      {"tb", 40},        {"tib", 40},       {"terabyte", 40}, {"terabytes", 40}};
  for (const auto& [name, shift] : names)
    if (unit == name)
      return std::uint64_t{1} << shift;
  if (unit.rfind("byte", 0) != 0)
    return std::nullopt;
  std::string_view rest = trimmed(std::string_view(unit).substr(unit.rfind("bytes", 0) == 0 ? 5 : 4));
  std::uint64_t factor = 1;
  while (!rest.empty()) {
    if (rest.front() != '*')
      return std::nullopt;
    rest.remove_prefix(1);
    const std::string_view term = trimmed(rest.substr(0, rest.find('*')));
    rest = rest.find('*') == std::string_view::npos ? std::string_view() : rest.substr(rest.find('*'));
    const std::size_t caret = term.find('^');
    const auto base = parse_number(term.substr(0, caret));
    const auto exponent =
        caret == std::string_view::npos ? std::optional<std::uint64_t>(1) : parse_number(term.substr(caret + 1));
    if (!base || !exponent || *exponent > 63)
      return std::nullopt;
    for (std::uint64_t i = 0; i < *exponent; i++) {
      const auto next = multiplied(factor, *base);
      if (!next)
        return std::nullopt;
      factor = *next;
    }
  }
  return factor;
}

std::optional<std::string> percent_decoded(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); i++) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    if (i + 2 >= text.size() || hex_value(text[i + 1]) < 0 || hex_value(text[i + 2]) < 0)
      return std::nullopt;
    out += static_cast<char>(hex_value(text[i + 1]) * 16 + hex_value(text[i + 2]));
    if (out.back() == '\0')
      return std::nullopt;
    i += 2;
  }
  return out;
}

} // namespace kvmport
