// SPDX-License-Identifier: Apache-2.0
#include "libconvert/guest/linux/initramfs_image.h"

#include "base/error.h"
#include "libconvert/guest/filesystem_paths.h"

#include <algorithm>
#include <archive.h>
#include <archive_entry.h>
#include <array>
#include <memory>
#include <optional>
#include <zlib.h>
#include <zstd.h>

namespace kvmport::linux_guest {
namespace {

constexpr std::uint64_t most_unpacked = 4ULL << 30;
constexpr std::uint64_t most_content = 512U << 20;
/// How much a decoder is given at a time: little, so that it is known about where a stream ends, or much where that is
/// known before.
constexpr std::size_t feed = 4096, large_feed = 256U << 10;

Error unreadable(const std::string& what, const std::string& why) {
  return {"INITRAMFS_UNREADABLE", what, why};
}

/// By the bytes that each format begins with.
std::string compression_at(std::string_view bytes) {
  static const std::array<std::pair<std::string_view, const char*>, 8> magics{{
      {std::string_view("\x1f\x8b", 2), "gzip"},
      {std::string_view("\xfd"
                        "7zXZ\0",
                        6),
       "xz"},
      {std::string_view("\x28\xb5\x2f\xfd", 4), "zstd"},
      {std::string_view("\x02\x21\x4c\x18", 4), "lz4"},
      {std::string_view("\x04\x22\x4d\x18", 4), "lz4"},
      {std::string_view("BZh", 3), "bzip2"},
      {std::string_view("\x5d\x00\x00", 3), "lzma"},
      {std::string_view("\x89LZO\0", 5), "lzo"},
  }};
  for (const auto& [magic, name] : magics)
    if (bytes.starts_with(magic))
      return name;
  return {};
}

bool cpio_at(std::string_view bytes) {
  return bytes.size() >= 110 && (bytes.starts_with("070701") || bytes.starts_with("070702")) &&
         std::ranges::all_of(bytes.substr(6, 104), [](unsigned char c) { return std::isxdigit(c) != 0; });
}

/// Decompresses from the beginning of `bytes`; knows about how far it has come.
class Decompressor {
 public:
  explicit Decompressor(std::string_view bytes, std::size_t feed_size = feed)
      : bytes_(bytes), feed_(feed_size), archive_(::archive_read_new(), ::archive_read_free) {
    archive* a = archive_.get();
    ::archive_read_support_filter_gzip(a);
    ::archive_read_support_filter_xz(a);
    ::archive_read_support_filter_lzma(a);
    ::archive_read_support_filter_bzip2(a);
    ::archive_read_support_filter_zstd(a);
    ::archive_read_support_filter_lz4(a);
    ::archive_read_support_filter_lzop(a);
    ::archive_read_support_format_raw(a);
    archive_entry* entry = nullptr;
    if (::archive_read_open(a, this, nullptr, read_more, nullptr) != ARCHIVE_OK ||
        ::archive_read_next_header(a, &entry) != ARCHIVE_OK)
      throw failure();
  }

  /// As ByteSource.
  std::string_view next(std::size_t most) {
    while (block_.empty()) {
      const void* start = nullptr;
      std::size_t size = 0;
      la_int64_t offset = 0;
      const int result = ::archive_read_data_block(archive_.get(), &start, &size, &offset);
      if (result == ARCHIVE_EOF)
        return {};
      if (result != ARCHIVE_OK)
        throw failure();
      block_ = {static_cast<const char*>(start), size};
      if ((produced_ += size) > most_unpacked)
        throw unreadable("the initramfs is too large", "more than 4 GiB unpacked");
    }
    const std::string_view part = block_.substr(0, most);
    block_.remove_prefix(part.size());
    return part;
  }
  /// Bytes handed over so far: at most `feed` of them are not used yet.
  std::size_t consumed() const { return at_; }

 private:
  static la_ssize_t read_more(archive*, void* self, const void** buffer) {
    auto& us = *static_cast<Decompressor*>(self);
    const std::string_view part = us.bytes_.substr(us.at_, us.feed_);
    *buffer = part.data();
    us.at_ += part.size();
    return static_cast<la_ssize_t>(part.size());
  }
  Error failure() const {
    const char* why = ::archive_error_string(archive_.get());
    return unreadable("the initramfs cannot be decompressed", why ? why : "unknown format");
  }

  std::string_view bytes_;
  std::size_t feed_;
  std::size_t at_ = 0;
  std::uint64_t produced_ = 0;
  std::string_view block_; ///< decompressed and not handed out yet
  std::unique_ptr<archive, int (*)(archive*)> archive_;
};

/// Where the next part begins, if there is one, in the bytes from `from` on.
std::optional<std::size_t> find_part(std::string_view image, std::size_t from, std::size_t window_end) {
  for (std::size_t at = from; at < std::min(window_end, image.size()); at++)
    if ((at % 4 == 0 && cpio_at(image.substr(at))) ||
        (at > from && image[at - 1] == '\0' && !compression_at(image.substr(at)).empty()))
      return at;
  for (std::size_t at = window_end; at < image.size(); at++) {
    if (image[at] == '\0')
      continue;
    if (cpio_at(image.substr(at)) || !compression_at(image.substr(at)).empty())
      return at;
    break;
  }
  return std::nullopt;
}

void visit_all(CpioReader& reader, const InitramfsVisitor& visit) {
  CpioEntry entry;
  while (reader.next(entry))
    visit(entry, [&] { return reader.content(most_content); });
}

/// A plain part; returns where it ends.
std::size_t walk_plain(std::string_view image, std::size_t start, const InitramfsVisitor& visit) {
  std::string_view rest = image.substr(start);
  CpioReader reader([&](std::size_t most) {
    const std::string_view part = rest.substr(0, most);
    rest.remove_prefix(part.size());
    return part;
  });
  visit_all(reader, visit);
  return start + reader.end();
}

/// A compressed part that fills `bytes`; returns about how many of them it took (`feed` too many at most).
std::size_t walk_stream(std::string_view bytes, const InitramfsVisitor& visit, std::size_t& consumed,
                        std::size_t feed_size = feed) {
  Decompressor stream(bytes, feed_size);
  try {
    CpioReader reader([&](std::size_t most) { return stream.next(most); });
    visit_all(reader, visit);
  } catch (...) {
    consumed = stream.consumed();
    throw;
  }
  return consumed = stream.consumed();
}

/// Whether a stream cut before `next` can be read. Between the parts lies padding, which most decoders don't take; but
/// a stream may itself end with zeros.
bool walk_cut(std::string_view bytes, std::size_t next, const InitramfsVisitor& visit) {
  std::size_t cut = next;
  while (cut > 0 && bytes[cut - 1] == '\0')
    cut--;
  for (const std::size_t last = std::min(next, cut + 8); cut <= last; cut++) {
    try {
      std::size_t consumed = 0;
      walk_stream(bytes.substr(0, cut), visit, consumed);
      return true;
    } catch (const Error&) { // the next cut may be the right one
    }
  }
  return false;
}

/// A compressed part; returns about where it ends. Most decoders of libarchive take what follows a stream for more of
/// it and fail: then the part is tried again, cut where the next one seems to begin. Entries may be visited twice.
std::size_t walk_compressed(std::string_view image, std::size_t start, const InitramfsVisitor& visit) {
  constexpr std::size_t read_ahead = 96U << 10; // what a decoder takes in beyond the last byte that it gave
  const std::string_view bytes = image.substr(start);
  std::size_t consumed = 0;
  if (compression_at(bytes) == "zstd") { // its frames tell their size
    const std::size_t frame = ::ZSTD_findFrameCompressedSize(bytes.data(), bytes.size());
    if (!::ZSTD_isError(frame) && compression_at(bytes.substr(frame)) != "zstd") {
      walk_stream(bytes.substr(0, frame), visit, consumed, large_feed);
      return start + frame;
    }
  }
  try {
    return start + walk_stream(bytes, visit, consumed);
  } catch (const Error&) {
    const std::size_t end = std::min(bytes.size(), consumed + read_ahead); // padding may lie there
    for (std::size_t at = std::max(consumed, read_ahead) - read_ahead + 1; at < end; at++) {
      const bool begins =
          cpio_at(bytes.substr(at)) ||
          (bytes[at - 1] == '\0' || (start + at) % 4 == 0 ? !compression_at(bytes.substr(at)).empty() : false);
      if (begins && walk_cut(bytes, at, visit))
        return start + at;
    }
    throw;
  }
}

} // namespace

std::vector<InitramfsPart> walk_initramfs(std::string_view image, const InitramfsVisitor& visit) {
  std::vector<InitramfsPart> parts;
  std::size_t at = image.find_first_not_of('\0');
  while (at < image.size()) {
    const std::string_view rest = image.substr(at);
    const InitramfsPart part{at, cpio_at(rest) ? "" : compression_at(rest)};
    if (cpio_at(rest)) {
      at = walk_plain(image, at, visit);
    } else if (!part.compression.empty()) {
      const std::size_t end = walk_compressed(image, at, visit);
      const std::size_t from = std::max(at + 1, end - std::min(end, feed + 64));
      at = find_part(image, from, end).value_or(image.size());
    } else if (parts.empty()) {
      throw unreadable("the initramfs has an unknown format", "it begins with no known magic");
    } else {
      break; // the kernel stops here as well
    }
    parts.push_back(part);
  }
  if (parts.empty())
    throw unreadable("the initramfs is empty", "");
  return parts;
}

InitramfsTree::InitramfsTree(std::string_view image, const std::function<bool(const std::string& name)>& keep) {
  parts_ = walk_initramfs(image, [&](const CpioEntry& entry, const std::function<std::string()>& content) {
    contents_.erase(entry.name);
    if (entry.is_link() || (entry.is_file() && keep(entry.name)))
      contents_[entry.name] = content();
    entries_[entry.name] = entry;
  });
}

std::string InitramfsTree::resolve(const std::string& path) const {
  const auto link = [this](const std::string& p) -> std::optional<std::string> {
    const auto it = entries_.find(p.substr(1));
    if (it == entries_.end() || !it->second.is_link())
      return std::nullopt;
    return contents_.at(it->first);
  };
  return guest_path::resolve("/" + path, true, link).value_or("/" + path).substr(1);
}

bool InitramfsTree::reaches(const std::string& path) const {
  return entries_.contains(resolve(path));
}

const std::string* InitramfsTree::content(const std::string& name) const {
  const auto it = contents_.find(name);
  return it == contents_.end() ? nullptr : &it->second;
}

std::string decompress(std::string_view bytes, std::uint64_t limit) {
  if (compression_at(bytes).empty())
    return std::string(bytes);
  Decompressor stream(bytes);
  std::string out;
  for (auto part = stream.next(limit + 1); !part.empty(); part = stream.next(limit + 1))
    if (out.append(part).size() > limit)
      throw unreadable("a compressed file is too large", "more than " + std::to_string(limit) + " bytes unpacked");
  return out;
}

std::string compress_gzip(std::string_view bytes) {
  z_stream z{};
  if (::deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK)
    throw unreadable("the initramfs cannot be compressed", "zlib gives no stream");
  const std::unique_ptr<z_stream, int (*)(z_stream*)> end(&z, ::deflateEnd);
  std::string out;
  std::array<char, 65536> buffer{};
  int result = Z_OK;
  while (result != Z_STREAM_END) {
    if (z.avail_in == 0 && !bytes.empty()) {
      const std::string_view part = bytes.substr(0, 1U << 30);
      z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(part.data())); // zlib's input is not const
      z.avail_in = static_cast<uInt>(part.size());
      bytes.remove_prefix(part.size());
    }
    z.next_out = reinterpret_cast<Bytef*>(buffer.data());
    z.avail_out = static_cast<uInt>(buffer.size());
    result = ::deflate(&z, bytes.empty() ? Z_FINISH : Z_NO_FLUSH);
    if (result == Z_STREAM_ERROR)
      throw unreadable("the initramfs cannot be compressed", "zlib failed");
    out.append(buffer.data(), buffer.size() - z.avail_out);
  }
  return out;
}

} // namespace kvmport::linux_guest
