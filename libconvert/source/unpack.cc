// SPDX-License-Identifier: Apache-2.0
#include "libconvert/source/unpack.h"

#include <algorithm>
#include <memory>
#include <unistd.h>
#include <zlib.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

constexpr std::size_t step = 1U << 20;

/// Appends bytes to a file; zero blocks are only counted.
class SparseOutput {
 public:
  SparseOutput(const fs::path& directory, std::uint64_t limit, std::string name)
      : fd_(open_unnamed(directory)), limit_(limit), name_(std::move(name)) {}
  void append(ByteSpan bytes) {
    if (bytes.size() > limit_ - size_)
      throw Error("DISK_TOO_LARGE", name_ + " unpacks to more than its description allows",
                  "the limit is " + std::to_string(limit_) + " bytes", "check the capacity in the description");
    for (std::size_t at = 0; at < bytes.size(); at += 65536) {
      const ByteSpan part = bytes.subspan(at, std::min<std::size_t>(65536, bytes.size() - at));
      if (!is_zero(part))
        write_exact(fd_.get(), size_ + at, part, "a temporary file");
    }
    size_ += bytes.size();
  }
  UniqueFd finish() {
    if (::ftruncate(fd_.get(), static_cast<off_t>(size_)) != 0)
      throw system_error(errno, "can't size a temporary file");
    return std::move(fd_);
  }

 private:
  UniqueFd fd_;
  std::uint64_t limit_, size_ = 0;
  std::string name_;
};

/// Takes the pieces' bytes in order and hands on what they unpack to.
class Inflater {
 public:
  explicit Inflater(std::string name) : name_(std::move(name)) {
    if (::inflateInit2(&stream_, 15 + 16) != Z_OK)
      throw Error("INTERNAL", "zlib does not start");
  }
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;
  ~Inflater() { ::inflateEnd(&stream_); }

  void feed(std::span<std::byte> bytes, SparseOutput& output) {
    stream_.next_in = reinterpret_cast<Bytef*>(bytes.data());
    stream_.avail_in = static_cast<uInt>(bytes.size());
    while (stream_.avail_in > 0) {
      if (ended_) { // gzip members may follow each other; what is no member is padding
        if (*stream_.next_in != 0x1F)
          return;
        ::inflateReset(&stream_);
        ended_ = false;
      }
      stream_.next_out = reinterpret_cast<Bytef*>(buffer_.data());
      stream_.avail_out = static_cast<uInt>(buffer_.size());
      const int result = ::inflate(&stream_, Z_NO_FLUSH);
      output.append(ByteSpan(buffer_).first(buffer_.size() - stream_.avail_out));
      if (result == Z_STREAM_END)
        ended_ = true;
      else if (result != Z_OK && !(result == Z_BUF_ERROR && stream_.avail_in == 0))
        throw Error("IMAGE_CORRUPT", name_ + " is not a valid gzip stream", stream_.msg == nullptr ? "" : stream_.msg,
                    "copy the file again from its origin");
    }
  }
  void finish(SparseOutput& output) {
    // What zlib still holds back when the output buffer was full at the end of the input.
    while (!ended_) {
      stream_.avail_in = 0;
      stream_.next_out = reinterpret_cast<Bytef*>(buffer_.data());
      stream_.avail_out = static_cast<uInt>(buffer_.size());
      const int result = ::inflate(&stream_, Z_NO_FLUSH);
      const std::size_t made = buffer_.size() - stream_.avail_out;
      output.append(ByteSpan(buffer_).first(made));
      if (result == Z_STREAM_END)
        ended_ = true;
      else if (made == 0)
        throw Error("DISK_TRUNCATED", name_ + " ends too early", "its gzip stream has no end",
                    "copy the file again from its origin");
    }
  }

 private:
  z_stream stream_{};
  bool ended_ = false;
  std::string name_;
  Bytes buffer_ = Bytes(step);
};

} // namespace

std::uint64_t unpacked_limit(std::uint64_t capacity, std::uint64_t packed) {
  constexpr std::uint64_t most = std::uint64_t{1} << 50, overhead = 16U << 20, deflate_ratio = 1032;
  if (capacity == 0)
    return packed > most / deflate_ratio ? most : packed * deflate_ratio;
  return std::min(capacity, most) + std::min(capacity, most) / 8 + overhead;
}

UniqueFd unpack_disk(const MachineDisk& disk, const fs::path& temp_directory, EventSink& sink) {
  std::vector<FilePiece> pieces = {{disk.path, disk.window, {}}};
  pieces.insert(pieces.end(), disk.more_pieces.begin(), disk.more_pieces.end());
  std::uint64_t total = 0, done = 0;
  for (FilePiece& piece : pieces) {
    if (piece.window.length == 0)
      piece.window.length = file_size(open_source(piece.path).get());
    total = checked_add(total, piece.window.length, "the disk");
  }
  const std::string name = disk.path.string();
  SparseOutput output(temp_directory, disk.gzip ? unpacked_limit(disk.capacity, total) : total, name);
  Inflater inflater(name);
  Bytes buffer(step);
  for (const FilePiece& piece : pieces) {
    const UniqueFd fd = open_source(piece.path);
    for (std::uint64_t at = 0; at < piece.window.length;) {
      const auto part = std::span(buffer).first(std::min<std::uint64_t>(step, piece.window.length - at));
      read_exact(fd.get(), piece.window.offset + at, part, piece.path.string());
      if (disk.gzip)
        inflater.feed(part, output);
      else
        output.append(part);
      at += part.size();
      done += part.size();
      sink.progress("open", done, total);
    }
  }
  if (disk.gzip)
    inflater.finish(output);
  return output.finish();
}

} // namespace kvmport
