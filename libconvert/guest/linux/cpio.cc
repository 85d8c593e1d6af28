// SPDX-License-Identifier: Apache-2.0
#include "libconvert/guest/linux/cpio.h"

#include "base/bytes.h"
#include "base/error.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>

namespace kvmport::linux_guest {
namespace {

constexpr std::size_t header_size = 110;
constexpr std::string_view trailer = "TRAILER!!!";
constexpr std::uint64_t most_name = 4096;

Error unreadable(const std::string& why) {
  return {"INITRAMFS_UNREADABLE", "the cpio archive in the initramfs is damaged", why};
}

/// Field `index` of the header: eight hexadecimal digits each, after the magic.
std::uint32_t field(std::string_view header, std::size_t index) {
  std::uint32_t value = 0;
  const std::string_view digits = header.substr(6 + index * 8, 8);
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
  if (error != std::errc{} || end != digits.data() + digits.size())
    throw unreadable("a header field is not a number");
  return value;
}

} // namespace

bool CpioReader::take(std::span<char> out) {
  while (!out.empty()) {
    const std::string_view bytes = source_(out.size());
    if (bytes.empty())
      return false;
    bytes.copy(out.data(), bytes.size());
    position_ += bytes.size();
    out = out.subspan(bytes.size());
  }
  return true;
}

void CpioReader::skip(std::uint64_t bytes) {
  while (bytes > 0) {
    const std::size_t got = source_(static_cast<std::size_t>(bytes)).size();
    if (got == 0)
      throw unreadable("it ends in the middle of a file");
    position_ += got;
    bytes -= got;
  }
}

void CpioReader::align() {
  skip((4 - position_ % 4) % 4);
}

bool CpioReader::next(CpioEntry& entry) {
  skip(left_);
  left_ = 0;
  align();
  std::array<char, header_size> header{};
  const std::span<char> magic = std::span(header).first(4);
  while (true) {
    // Zeros may lie between archives.
    do {
      std::ranges::fill(magic, '\0');
      const bool more = take(magic);
      const auto used = std::ranges::find_if(magic, [](char c) { return c != '\0'; });
      if ((!more || std::string_view(magic.data(), 4) != "0707") && (used != magic.end() || !more) && !inside_) {
        end_ = used == magic.end() ? position_
                                   : round_up(position_, 4) - 4 + static_cast<std::size_t>(used - magic.begin());
        return false;
      }
      if (!more)
        throw unreadable("it has no end mark");
    } while (std::ranges::all_of(magic, [](char c) { return c == '\0'; }));
    if (!take(std::span(header).subspan(4)))
      throw unreadable("it ends in the middle of a header");
    const std::string_view text(header.data(), header.size());
    inside_ = true;
    if (!text.starts_with("070701") && !text.starts_with("070702"))
      throw unreadable("a header does not begin with 070701");
    const std::uint64_t name_size = field(text, 11);
    if (name_size < 1 || name_size > most_name)
      throw unreadable("a name has " + std::to_string(name_size) + " bytes");
    entry.mode = field(text, 1);
    entry.size = field(text, 6);
    std::string name(name_size, '\0');
    if (!take(name))
      throw unreadable("it ends in the middle of a name");
    name.resize(std::min(name.size(), name.find('\0')));
    align();
    if (name == trailer) {
      skip(entry.size);
      align();
      inside_ = false;
      continue;
    }
    while (name.starts_with("./") || name.starts_with("/"))
      name.erase(0, name.find('/') + 1);
    entry.name = std::move(name);
    left_ = entry.size;
    inside_ = true;
    return true;
  }
}

std::string CpioReader::content(std::uint64_t limit) {
  if (left_ > limit)
    throw unreadable("a file has " + std::to_string(left_) + " bytes");
  std::string text;
  while (left_ > 0) {
    const std::size_t at = text.size();
    const auto part = static_cast<std::size_t>(std::min<std::uint64_t>(left_, 1U << 20));
    text.resize(at + part);
    if (!take(std::span(text).subspan(at)))
      throw unreadable("it ends in the middle of a file");
    left_ -= part;
  }
  return text;
}

void CpioWriter::entry(const std::string& name, std::uint32_t mode, std::string_view content, std::uint32_t links) {
  std::array<char, header_size + 1> header{};
  std::snprintf(header.data(), header.size(), "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", inode_++,
                mode, 0U, 0U, links, 0U, static_cast<unsigned>(content.size()), 0U, 0U, 0U, 0U,
                static_cast<unsigned>(name.size() + 1), 0U);
  const auto pad = [this] { out_.resize((out_.size() + 3) / 4 * 4, '\0'); };
  out_.append(header.data(), header_size).append(name).push_back('\0');
  pad();
  out_.append(content);
  pad();
}

void CpioWriter::directory(const std::string& name, std::uint32_t permissions) {
  entry(name, 0040000U | permissions, {}, 2);
}

void CpioWriter::file(const std::string& name, std::string_view content, std::uint32_t permissions) {
  entry(name, 0100000U | permissions, content, 1);
}

void CpioWriter::symlink(const std::string& name, std::string_view target) {
  entry(name, 0120777U, target, 1);
}

std::string CpioWriter::finish() {
  inode_ = 0;
  entry(std::string(trailer), 0, {}, 1);
  out_.resize((out_.size() + 511) / 512 * 512, '\0');
  return std::move(out_);
}

} // namespace kvmport::linux_guest
