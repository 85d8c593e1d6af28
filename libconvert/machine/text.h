// SPDX-License-Identifier: Apache-2.0
// Small text tools that the description readers share: encodings, numbers with units, MAC addresses, UUIDs. Everything
// here takes hostile text and either returns a clean value or says that there is none.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kvmport {

/// `text` in `encoding` (a name that iconv knows) as UTF-8; nothing when the encoding is unknown or the bytes are not
/// valid in it. Encodings that hold shell or markup characters in odd places (UTF-7) are unknown here.
std::optional<std::string> to_utf8(std::string_view text, const std::string& encoding);

/// Text that XML 1.0 and JSON can hold: valid UTF-8, without control characters but tab and newline; '?' for the rest.
std::string clean_utf8(std::string_view text);

std::string lower(std::string_view text); ///< ASCII only
std::string_view trimmed(std::string_view text);
bool starts_with_nocase(std::string_view text, std::string_view prefix);
/// For messages and notes: clean_utf8 on one line, at most `limit` bytes and "...".
std::string printable(std::string_view text, std::size_t limit = 200);

/// A decimal number that is all of `text` (spaces around it are fine).
std::optional<std::uint64_t> parse_number(std::string_view text);
/// "true", "yes", "on", "1" / "false", … in any case.
std::optional<bool> parse_bool(std::string_view text);
/// Six hex octets with ':' or '-' or nothing between them, as "00:0c:29:…"; nothing for multicast and all-zero
/// addresses and for other text.
std::optional<std::string> parse_mac(std::string_view text);
/// 32 hex digits, whatever braces, dashes and spaces lie between them, as "564d7088-01a1-…"; nothing for all zeros.
std::optional<std::string> parse_uuid(std::string_view text);
/// The factor of a DSP0004 programmatic unit ("byte * 2^20", "byte*1000") or an old name ("MegaBytes", "GB", "KiB":
/// powers of 1024 throughout, as the tools that write them mean it). Nothing for other units.
std::optional<std::uint64_t> parse_byte_unit(std::string_view text);
/// count * factor; nothing when it does not fit into 63 bits.
std::optional<std::uint64_t> multiplied(std::uint64_t count, std::uint64_t factor);
/// "%41" → "A"; nothing for broken escapes and escaped NULs.
std::optional<std::string> percent_decoded(std::string_view text);

} // namespace kvmport
