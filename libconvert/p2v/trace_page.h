// SPDX-License-Identifier: Apache-2.0
// Binary pages of the kernel's trace buffers, and the text files that say how an event's fields lie in them. Layout:
// Linux, include/linux/ring_buffer.h (enum ring_buffer_type), kernel/trace/ring_buffer.c (struct buffer_data_page,
// RB_MISSED_EVENTS), Documentation/trace/events.rst (format files). Pure functions: no file is opened here.
#pragma once

#include "base/bytes.h"

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>

namespace kvmport {

struct TraceField {
  std::uint64_t offset = 0, size = 0; ///< bytes of the event
};

/// What an event's `format` file says.
struct TraceFormat {
  std::uint64_t id = 0; ///< 0: the text had none
  std::map<std::string, TraceField> fields;
  /// Error LIVE_NOT_POSSIBLE when it is not there.
  const TraceField& field(const std::string& name) const;
};
TraceFormat parse_trace_format(std::string_view text);

/// How a page begins, from the file events/header_page.
struct TracePageLayout {
  TraceField commit, data;
};
/// Error LIVE_NOT_POSSIBLE when a field is missing.
TracePageLayout parse_page_layout(std::string_view text);

/// An unsigned number in the machine's own byte order; `field` is 1, 2, 4 or 8 bytes.
std::uint64_t trace_number(ByteSpan event, const TraceField& field);
/// Text of a char array, up to its first NUL.
std::string_view trace_text(ByteSpan event, const TraceField& field);

/// Calls `event` with the bytes of each event in the page, in order. Returns true when the kernel had to drop events
/// before this page. What doesn't fit together is Error TRACE_CORRUPT: then nothing is known about what was written.
bool read_trace_page(ByteSpan page, const TracePageLayout& layout, const std::function<void(ByteSpan)>& event);

/// The sum of the events that one CPU's buffer lost, from its `stats` file.
std::uint64_t lost_events(std::string_view stats);

} // namespace kvmport
