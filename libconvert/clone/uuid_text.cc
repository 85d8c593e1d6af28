// SPDX-License-Identifier: Apache-2.0
#include "libconvert/clone/uuid_text.h"

#include "libconvert/clone/identity_rules.h"
#include "libconvert/guest/linux/text.h"

#include <algorithm>
#include <array>
#include <cctype>

namespace kvmport {
namespace {

using linux_guest::lower;

constexpr std::size_t uuid_length = 36, fat_length = 9, signature_length = 8, mbr_partition_length = 11,
                      lvm_length = 38;

bool is_word(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
}

std::string replaced_all(std::string text, std::string_view old_part, std::string_view new_part) {
  for (std::size_t at = text.find(old_part); at != std::string::npos; at = text.find(old_part, at + new_part.size()))
    text.replace(at, old_part.size(), new_part);
  return text;
}

std::string upper(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return text;
}

/// "aabbccdd-eeff-…" as mdadm has it: "aabbccdd:eeff…".
std::string mdadm_notation(const std::string& uuid) {
  std::string text = replaced_all(uuid, "-", "");
  for (const std::size_t at : {8U, 17U, 26U})
    text.insert(at, 1, ':');
  return text;
}

/// Base-62 text of LVM's, as long as `old_uuid`, with its dashes.
std::string derive_lvm(std::string_view old_uuid, const std::string& seed) {
  constexpr std::string_view digits = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
  const std::string hex = identity::sha256_hex(seed + '\n' + std::string(old_uuid)) +
                          identity::sha256_hex(seed + "\n\n" + std::string(old_uuid));
  std::string text(old_uuid);
  std::size_t at = 0;
  for (char& c : text)
    if (c != '-') {
      c = digits[std::stoul(hex.substr(at, 4), nullptr, 16) % digits.size()];
      at = (at + 4) % hex.size();
    }
  return text;
}

/// `hex` in the case of the text that it replaces; without a letter there, as it is.
std::string in_case_of(std::string_view old_text, const std::string& hex) {
  const bool has_upper = std::ranges::any_of(old_text, [](unsigned char c) { return std::isupper(c) != 0; });
  const std::string escaped = replaced_all(std::string(old_text), "\\x2d", "-");
  const bool has_lower = std::ranges::any_of(escaped, [](unsigned char c) { return std::islower(c) != 0; });
  if (has_upper == has_lower)
    return hex;
  return has_upper ? replaced_all(upper(hex), "\\X2D", "\\x2d") : lower(hex);
}

/// Short forms could be a part of something longer. An escaped one may follow a dash: "by\x2duuid-ABCD\x2d1234".
bool stands_alone(std::string_view text, std::size_t at, std::size_t length, bool escaped) {
  const auto continues = [&](char c) { return is_word(c) || (c == '-' && !escaped); };
  return (at == 0 || !continues(text[at - 1])) && (at + length == text.size() || !continues(text[at + length]));
}

} // namespace

std::string derive_uuid(std::string_view old_uuid, const std::string& seed) {
  CloneIdentity identity;
  identity.seed = seed;
  if (old_uuid.size() == lvm_length)
    return derive_lvm(old_uuid, seed);
  if (old_uuid.size() == uuid_length)
    return identity::derived_uuid(identity, old_uuid);
  // A partition of an MBR follows from the signature of its disk; a signature of zero would be none.
  std::string hex = identity::derived_hex(identity, lower(old_uuid.substr(0, signature_length)), signature_length);
  if (hex == "00000000")
    hex = "00000001";
  if (old_uuid.size() == mbr_partition_length)
    return hex + std::string(old_uuid.substr(signature_length));
  return old_uuid.size() == fat_length ? upper(hex.insert(4, "-")) : hex;
}

std::vector<std::pair<std::string, std::string>> uuid_notations(const UuidChange& change) {
  const auto& [what, before, after] = change;
  if (before.size() == signature_length)
    return {{"0x" + before, "0x" + after}};
  std::vector<std::pair<std::string, std::string>> all{
      {before, after}, {replaced_all(before, "-", "\\x2d"), replaced_all(after, "-", "\\x2d")}};
  if (before.size() == uuid_length || before.size() == lvm_length)
    all.emplace_back(replaced_all(before, "-", ""), replaced_all(after, "-", ""));
  if (before.size() == uuid_length)
    all.emplace_back(mdadm_notation(before), mdadm_notation(after));
  return all;
}

std::string replace_uuids(std::string_view text, const std::vector<UuidChange>& changes) {
  const std::string folded = lower(text);
  std::string result(text);
  for (const UuidChange& change : changes) {
    const bool exact = change.before.size() == lvm_length, is_short = change.before.size() <= mbr_partition_length;
    for (const auto& [before, after] : uuid_notations(change)) {
      const std::string wanted = exact ? before : lower(before);
      const std::string_view in = exact ? text : std::string_view(folded);
      for (std::size_t at = in.find(wanted); at != std::string_view::npos; at = in.find(wanted, at + wanted.size())) {
        const bool escaped = before.find('\\') != std::string::npos;
        if (!is_short || stands_alone(text, at, wanted.size(), escaped))
          result.replace(at, wanted.size(), exact ? after : in_case_of(text.substr(at, wanted.size()), after));
      }
    }
  }
  return result;
}

} // namespace kvmport
