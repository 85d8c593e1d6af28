// SPDX-License-Identifier: Apache-2.0
#include "formats/chain.h"

#include <algorithm>

namespace kvmport {

// --- caches and checks -------------------------------------------------------------------------------------------

PageCache::Page PageCache::find(std::uint64_t key) const {
  const std::lock_guard lock(mutex_);
  const auto found = pages_.find(key);
  return found == pages_.end() ? nullptr : found->second;
}

PageCache::Page PageCache::insert(std::uint64_t key, Bytes bytes) {
  auto page = std::make_shared<const Bytes>(std::move(bytes));
  const std::lock_guard lock(mutex_);
  const auto [place, fresh] = pages_.try_emplace(key, page);
  if (!fresh)
    return place->second;
  order_.push_back(key);
  used_ += page->size();
  while (used_ > capacity_ && order_.size() > 1) {
    const auto oldest = pages_.find(order_.front());
    order_.pop_front();
    used_ -= oldest->second->size();
    pages_.erase(oldest);
  }
  return page;
}

FileTable::FileTable(const SourceFile& file, std::uint64_t offset, std::uint64_t bytes, std::string_view what)
    : file_(file), offset_(offset), bytes_(bytes) {
  file.require(offset, bytes, what);
}

PageCache::Page FileTable::page(std::uint64_t at) const {
  detail::check_bounds(bytes_, at, 1);
  const std::uint64_t start = at / page_bytes * page_bytes;
  return pages_.get(start, [&] { return file_.read_bytes(offset_ + start, std::min(page_bytes, bytes_ - start)); });
}

bool UnitMap::claim(std::uint64_t unit, std::uint64_t count) {
  bool free = true;
  for (; count != 0; unit++, count--) {
    std::uint64_t& word = chunks_[unit / chunk_bits][unit % chunk_bits / 64];
    const std::uint64_t bit = std::uint64_t{1} << unit % 64;
    free = free && (word & bit) == 0;
    word |= bit;
  }
  return free;
}

Error corrupt(const SourceFile& file, const std::string& what, const std::string& why) {
  return {"IMAGE_CORRUPT", file.path().string() + ": " + what, why,
          "copy the file again from its source and compare checksums"};
}

std::string at_offset(std::uint64_t offset) {
  return "at file offset " + std::to_string(offset);
}

void require_power_of_two(const SourceFile& file, std::uint64_t value, std::uint64_t low, std::uint64_t high,
                          const std::string& what) {
  if (!std::has_single_bit(value) || value < low || value > high)
    throw corrupt(file, what + " is not a power of two between " + std::to_string(low) + " and " + std::to_string(high),
                  "it is " + std::to_string(value));
}

BitRun bit_run(ByteSpan bitmap, std::uint64_t first, std::uint64_t max, bool msb_first) {
  const std::uint64_t end = std::min<std::uint64_t>(bitmap.size() * 8, first + max);
  const auto bit = [&](std::uint64_t i) {
    const unsigned shift = msb_first ? 7 - i % 8 : i % 8;
    return (std::to_integer<unsigned>(bitmap[i / 8]) >> shift & 1) != 0;
  };
  detail::check_bounds(bitmap.size(), first / 8, 1);
  const bool value = bit(first);
  const std::byte same = value ? std::byte{0xff} : std::byte{0};
  std::uint64_t at = first;
  while (at < end) {
    if (at % 8 == 0 && end - at >= 8 && bitmap[at / 8] == same)
      at += 8;
    else if (bit(at) == value)
      at++;
    else
      break;
  }
  return {value, at - first};
}

// --- the image ---------------------------------------------------------------------------------------------------

void PiecedImage::set_parent(std::unique_ptr<Image> parent) {
  parent_ = std::move(parent);
}

void PiecedImage::add_parent(ImageInfo& info) const {
  if (!parent_)
    return;
  const ImageInfo below = parent_->info();
  info.details["parent_format"] = below.format;
  info.files.insert(info.files.end(), below.files.begin(), below.files.end());
  for (const std::string& note : below.notes)
    info.notes.push_back("parent: " + note);
}

std::size_t PiecedImage::read_packed(std::uint64_t, const Piece&, std::span<std::byte>) const {
  throw Error("INTERNAL", "a piece without a reader");
}

void PiecedImage::check(std::uint64_t offset, std::uint64_t length) const {
  if (offset > size_ || length > size_ - offset)
    throw Error("OUT_OF_RANGE", "access past the end of the disk",
                std::to_string(length) + " bytes at " + std::to_string(offset) + " of " + std::to_string(size_));
}

Piece PiecedImage::locate_run(std::uint64_t offset, std::uint64_t max) const {
  Piece run = locate(offset, max);
  while (run.length < max && run.place != Piece::Place::packed) {
    const Piece next = locate(offset + run.length, max - run.length);
    if (next.place != run.place || next.file != run.file ||
        (run.place == Piece::Place::file && next.host != run.host + run.length))
      break;
    run.length += next.length;
  }
  return run;
}

void PiecedImage::add_below(std::vector<Extent>& list, Range range) const {
  const std::uint64_t held =
      parent_ && range.offset < parent_->size() ? std::min(range.length, parent_->size() - range.offset) : 0;
  if (held != 0)
    for (const Extent& extent : parent_->extents({range.offset, held}))
      append_extent(list, extent);
  append_extent(list, {{range.offset + held, range.length - held}, ExtentKind::unallocated});
}

std::vector<Extent> PiecedImage::extents(Range range) const {
  // Runs shorter than this are not worth asking the host file system for holes.
  constexpr std::uint64_t worth_asking = 1U << 20;
  check(range.offset, range.length);
  {
    const std::lock_guard lock(validation_mutex_);
    if (!valid_)
      validate();
    valid_ = true;
  }
  std::vector<Extent> list;
  for (std::uint64_t at = range.offset; at < range.end();) {
    const Piece run = locate_run(at, range.end() - at);
    if (run.place == Piece::Place::below) {
      add_below(list, {at, run.length});
    } else if (run.place == Piece::Place::file && run.length >= worth_asking) {
      for (const Extent& part : run.file->data_extents({run.host, run.length}))
        append_extent(list, {{part.range.offset - run.host + at, part.range.length},
                             part.kind == ExtentKind::data ? ExtentKind::data : ExtentKind::zero});
    } else {
      append_extent(list, {{at, run.length}, run.place == Piece::Place::zero ? ExtentKind::zero : ExtentKind::data});
    }
    at += run.length;
  }
  return list;
}

void PiecedImage::read_below(std::uint64_t offset, std::span<std::byte> out) const {
  const std::size_t held =
      parent_ && offset < parent_->size() ? std::min<std::uint64_t>(out.size(), parent_->size() - offset) : 0;
  if (held != 0)
    parent_->read(offset, out.first(held));
  std::fill(out.begin() + static_cast<std::ptrdiff_t>(held), out.end(), std::byte{0});
}

void PiecedImage::read(std::uint64_t offset, std::span<std::byte> out) const {
  check(offset, out.size());
  while (!out.empty()) {
    const Piece run = locate_run(offset, out.size());
    std::size_t done = run.length;
    switch (run.place) {
    case Piece::Place::file:
      run.file->read(run.host, out.first(done));
      break;
    case Piece::Place::zero:
      std::fill_n(out.begin(), done, std::byte{0});
      break;
    case Piece::Place::below:
      read_below(offset, out.first(done));
      break;
    case Piece::Place::packed:
      done = read_packed(offset, run, out);
      break;
    }
    offset += done;
    out = out.subspan(done);
  }
}

std::optional<FileRange> PiecedImage::file_range(Range range) const {
  check(range.offset, range.length);
  if (range.length == 0)
    return std::nullopt;
  const Piece run = locate_run(range.offset, range.length);
  if (run.place == Piece::Place::file)
    return run.file->file_range({run.host, run.length});
  if (run.place == Piece::Place::below && parent_ && range.offset < parent_->size())
    return parent_->file_range({range.offset, std::min(run.length, parent_->size() - range.offset)});
  return std::nullopt;
}

// --- names -------------------------------------------------------------------------------------------------------

std::string utf16_text(ByteSpan bytes, bool big_endian) {
  std::string text;
  const auto put = [&](std::uint32_t c) {
    if (c < 0x80) {
      text += static_cast<char>(c);
    } else if (c < 0x800) {
      text += static_cast<char>(0xc0 | c >> 6);
      text += static_cast<char>(0x80 | (c & 0x3f));
    } else {
      if (c >= 0x10000) {
        text += static_cast<char>(0xf0 | c >> 18);
        text += static_cast<char>(0x80 | (c >> 12 & 0x3f));
      } else {
        text += static_cast<char>(0xe0 | c >> 12);
      }
      text += static_cast<char>(0x80 | (c >> 6 & 0x3f));
      text += static_cast<char>(0x80 | (c & 0x3f));
    }
  };
  const auto unit = [&](std::size_t at) -> std::uint32_t {
    return big_endian ? load_be<std::uint16_t>(bytes, at) : load_le<std::uint16_t>(bytes, at);
  };
  for (std::size_t at = 0; at + 2 <= bytes.size(); at += 2) {
    const std::uint32_t c = unit(at);
    if (c == 0)
      break;
    if (c < 0xd800 || c > 0xdfff) {
      put(c);
    } else if (c < 0xdc00 && at + 4 <= bytes.size() && (unit(at + 2) & 0xfc00) == 0xdc00) {
      put(0x10000 + ((c & 0x3ff) << 10) + (unit(at + 2) & 0x3ff));
      at += 2;
    } else {
      put('?');
    }
  }
  return text;
}

namespace {

/// A Windows path as the path that a user would mean here; drive letters and shares are dropped by the caller.
std::string with_slashes(std::string name) {
  if (name.find('\\') != std::string::npos)
    std::replace(name.begin(), name.end(), '\\', '/');
  if (name.starts_with("file://"))
    name.erase(0, 7);
  while (name.starts_with("./"))
    name.erase(0, 2);
  return name;
}

} // namespace

std::unique_ptr<Image> open_parent(const OpenContext& context, const SourceFile& from,
                                   const std::vector<std::string>& names, const std::string& format) {
  std::optional<Error> first;
  const auto attempt = [&](const std::string& name) -> std::unique_ptr<Image> {
    try {
      return context.open_referenced(from, name, format, "parent");
    } catch (const Error& error) {
      if (error.code() != "PARENT_MISSING" && error.code() != "PATH_NOT_ALLOWED")
        throw;
      if (!first)
        first = error;
      return nullptr;
    }
  };
  for (const std::string& given : names) {
    const std::string name = with_slashes(given);
    if (name.empty())
      continue;
    if (auto image = attempt(name))
      return image;
    const std::string last = name.substr(name.rfind('/') + 1);
    if (last.empty() || last == "." || last == "..")
      continue;
    if (last != name)
      if (auto image = attempt(last))
        return image;
    for (const std::filesystem::path& directory : context.options().allowed_directories)
      if (auto image = attempt((std::filesystem::absolute(directory) / last).string()))
        return image;
  }
  if (first)
    throw *first;
  throw Error("PARENT_MISSING", from.path().string() + " needs a parent and does not name it");
}

} // namespace kvmport
