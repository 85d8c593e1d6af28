// SPDX-License-Identifier: Apache-2.0
#include "formats/raw_writer.h"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <unistd.h>

namespace kvmport {

RawWriter::RawWriter(const std::filesystem::path& path, const CreateOptions& options)
    : name_(path.string()), file_(options.resume ? open_existing(path) : create_new(path)), size_(options.size),
      written_(div_round_up(div_round_up(options.size, chunk), 64)) {
  if (::ftruncate(file_.get(), static_cast<off_t>(size_)) != 0)
    throw system_error(errno, "can't set the size of " + name_);
  if (options.resume)
    mark_written({0, size_});
}

void RawWriter::mark_written(Range range) {
  if (range.length == 0)
    return;
  for (std::uint64_t i = range.offset / chunk; i <= (range.end() - 1) / chunk; i++) {
    const std::uint64_t bit = std::uint64_t{1} << (i % 64);
    if ((written_[i / 64].load(std::memory_order_relaxed) & bit) == 0)
      written_[i / 64].fetch_or(bit, std::memory_order_relaxed);
  }
}

bool RawWriter::may_hold_data(std::uint64_t chunk_index) const {
  return (written_[chunk_index / 64].load(std::memory_order_relaxed) >> (chunk_index % 64) & 1) != 0;
}

void RawWriter::write(std::uint64_t offset, ByteSpan data) {
  detail::check_bounds(size_, offset, data.size());
  mark_written({offset, data.size()});
  write_exact(file_.get(), offset, data, name_);
}

void RawWriter::zero(Range range) {
  detail::check_bounds(size_, range.offset, range.length);
  Range pending{range.offset, 0};
  for (std::uint64_t at = range.offset; at < range.end();) {
    const std::uint64_t next = std::min(range.end(), (at / chunk + 1) * chunk);
    if (may_hold_data(at / chunk)) {
      pending.length = next - pending.offset;
    } else {
      punch(pending);
      pending = {next, 0};
    }
    at = next;
  }
  punch(pending);
}

void RawWriter::punch(Range range) {
  if (range.length == 0)
    return;
  if (::fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(range.offset),
                  static_cast<off_t>(range.length)) == 0)
    return;
  if (errno != EOPNOTSUPP)
    throw system_error(errno, "can't zero a part of " + name_);
  const Bytes zeros(std::min<std::uint64_t>(range.length, chunk));
  for (std::uint64_t at = range.offset; at < range.end(); at += zeros.size())
    write_exact(file_.get(), at, ByteSpan(zeros).first(std::min<std::uint64_t>(zeros.size(), range.end() - at)), name_);
}

void RawWriter::read(std::uint64_t offset, std::span<std::byte> out) {
  read_exact(file_.get(), offset, out, name_);
}

bool RawWriter::known_zero(Range range) const {
  const off_t data = ::lseek(file_.get(), static_cast<off_t>(range.offset), SEEK_DATA);
  if (data < 0)
    return errno == ENXIO; // a hole up to the end
  return static_cast<std::uint64_t>(data) >= range.end();
}

Bytes RawWriter::checkpoint() {
  if (::fdatasync(file_.get()) != 0)
    throw system_error(errno, "can't sync " + name_);
  return {};
}

void RawWriter::restore(const std::vector<Bytes>&) {}

void RawWriter::finish() {
  if (::fsync(file_.get()) != 0)
    throw system_error(errno, "can't sync " + name_);
}

} // namespace kvmport
