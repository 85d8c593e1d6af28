// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/trace_page.h"

#include "libconvert/machine/text.h"

#include <algorithm>
#include <optional>

namespace kvmport {
namespace {

constexpr std::uint32_t missed_events = 1U << 31, missed_stored = 1U << 30; // flags in a page's commit word

// ring_buffer_type_len_max is 28: up to that the value is the length in words.
constexpr std::uint32_t type_padding = 29, type_time_extend = 30, type_time_stamp = 31;

template <class T> T load_native(ByteSpan from, std::size_t offset) {
  if constexpr (std::endian::native == std::endian::little)
    return load_le<T>(from, offset);
  else
    return load_be<T>(from, offset);
}

[[noreturn]] void corrupt(const char* why) {
  throw Error("TRACE_CORRUPT", "the kernel's trace buffer can't be read", why);
}

/// The number behind `key` in "key:NUMBER;".
std::optional<std::uint64_t> number_of(std::string_view line, std::string_view key) {
  const auto at = line.find(key);
  if (at == std::string_view::npos)
    return std::nullopt;
  const auto end = line.find(';', at);
  if (end == std::string_view::npos)
    return std::nullopt;
  return parse_number(line.substr(at + key.size(), end - at - key.size()));
}

template <class Each> void each_line(std::string_view text, const Each& each) {
  while (!text.empty()) {
    const auto end = text.find('\n');
    each(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
}

/// "sector_t sector" → "sector", "char rwbs[10]" → "rwbs".
std::string_view name_of(std::string_view declaration) {
  const auto bracket = declaration.rfind('[');
  if (bracket != std::string_view::npos && declaration.ends_with(']'))
    declaration = declaration.substr(0, bracket);
  const auto space = declaration.find_last_of(" \t*");
  return space == std::string_view::npos ? declaration : declaration.substr(space + 1);
}

} // namespace

const TraceField& TraceFormat::field(const std::string& name) const {
  const auto found = fields.find(name);
  if (found == fields.end())
    throw Error("LIVE_NOT_POSSIBLE", "this kernel's trace events are of an unknown kind",
                "the field " + name + " is missing", "capture this machine from the boot medium");
  return found->second;
}

TraceFormat parse_trace_format(std::string_view text) {
  TraceFormat format;
  each_line(text, [&](std::string_view line) {
    if (line.starts_with("ID:"))
      format.id = parse_number(line.substr(3)).value_or(0);
    const std::string_view key = "field:";
    const auto at = line.find(key);
    const auto end = line.find(';', at);
    if (at == std::string_view::npos || end == std::string_view::npos)
      return;
    const auto offset = number_of(line, "offset:"), size = number_of(line, "size:");
    if (offset && size && *offset < 65536 && *size < 65536)
      format.fields.emplace(name_of(line.substr(at + key.size(), end - at - key.size())), TraceField{*offset, *size});
  });
  return format;
}

TracePageLayout parse_page_layout(std::string_view text) {
  const TraceFormat format = parse_trace_format(text);
  return {format.field("commit"), format.field("data")};
}

std::uint64_t trace_number(ByteSpan event, const TraceField& field) {
  switch (field.size) {
  case 1:
    return load_native<std::uint8_t>(event, field.offset);
  case 2:
    return load_native<std::uint16_t>(event, field.offset);
  case 4:
    return load_native<std::uint32_t>(event, field.offset);
  case 8:
    return load_native<std::uint64_t>(event, field.offset);
  default:
    corrupt("a field has an impossible size");
  }
}

std::string_view trace_text(ByteSpan event, const TraceField& field) {
  detail::check_bounds(event.size(), field.offset, field.size);
  const std::string_view text = as_text(event.subspan(field.offset, field.size));
  return text.substr(0, text.find('\0'));
}

bool read_trace_page(ByteSpan page, const TracePageLayout& layout, const std::function<void(ByteSpan)>& event) {
  if (page.size() < layout.data.offset || layout.commit.offset + layout.commit.size > page.size())
    corrupt("a page is too short");
  const std::uint64_t commit = trace_number(page, layout.commit) & 0xffffffff;
  const ByteSpan data = page.subspan(layout.data.offset);
  const std::uint64_t length = commit & ~std::uint64_t{missed_events | missed_stored};
  if (length > data.size())
    corrupt("a page says that it holds more than it can");
  std::uint64_t at = 0;
  while (length - at >= 4) {
    const auto word = load_native<std::uint32_t>(data, at);
    // The type is a bit field: the lowest bits on little-endian machines, the highest on the others.
    const bool little = std::endian::native == std::endian::little;
    const std::uint32_t type = little ? word & 31 : word >> 27;
    const std::uint32_t delta = little ? word >> 5 : word & 0x7ffffff;
    std::uint64_t header = 4, size = 0;
    if (type == type_padding && delta == 0)
      break; // nothing more in this page
    if (type == type_time_extend || type == type_time_stamp) {
      size = 4;
    } else if (type == 0 || type == type_padding) {
      if (length - at < 8)
        corrupt("an event has no length");
      const auto all = load_native<std::uint32_t>(data, at + 4); // counts itself
      if (all < 4)
        corrupt("an event is impossibly short");
      if (type == 0) {
        header = 8;
        size = all - 4;
      } else {
        size = all;
      }
    } else {
      size = std::uint64_t{type} * 4;
    }
    if (size > length - at - header)
      corrupt("an event goes over the end of its page");
    if (type < type_padding)
      event(data.subspan(at + header, size));
    at += header + round_up(size, 4);
    if (at > length)
      break;
  }
  return (commit & missed_events) != 0;
}

std::uint64_t lost_events(std::string_view stats) {
  std::uint64_t sum = 0;
  each_line(stats, [&](std::string_view line) {
    for (const std::string_view key : {"overrun:", "commit overrun:", "dropped events:"})
      if (line.starts_with(key))
        sum += parse_number(line.substr(key.size())).value_or(0);
  });
  return sum;
}

} // namespace kvmport
