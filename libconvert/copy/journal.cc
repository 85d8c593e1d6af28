// SPDX-License-Identifier: Apache-2.0
#include "libconvert/copy/journal.h"

#include <array>
#include <cerrno>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

// Everything little-endian.
// Header: magic 8, version 8, identity 16, XXH64 of these.
// Record: payload length 8, XXH64 of the payload 8, payload.
// Payload: chunk size 8, number of runs 8, runs of 32 bytes (first, count, digest high, digest low), checkpoint.
constexpr std::string_view magic = "KVMPJRNL";
constexpr std::uint64_t version = 1;
constexpr std::size_t header_size = 40;
constexpr std::size_t frame_size = 16;
constexpr std::size_t run_size = 32;
// A record without runs whose checkpoint is this and a number of 8 bytes: settle().
constexpr std::string_view settle_magic = "SETTLED!";
constexpr std::size_t settle_size = 16;

std::uint64_t checksum(ByteSpan bytes) {
  return XXH64(bytes.data(), bytes.size(), 0);
}

Bytes make_header(const Digest& identity) {
  Bytes header(header_size);
  std::memcpy(header.data(), magic.data(), magic.size());
  store_le<std::uint64_t>(header, 8, version);
  store_le<std::uint64_t>(header, 16, identity.high);
  store_le<std::uint64_t>(header, 24, identity.low);
  store_le<std::uint64_t>(header, 32, checksum(ByteSpan(header).first(32)));
  return header;
}

/// Takes a payload apart; false when it makes no sense or does not go with what came before.
bool parse(ByteSpan payload, Journal::Content& content) {
  if (payload.size() < 16)
    return false;
  const auto chunk_size = load_le<std::uint64_t>(payload, 0);
  const auto runs = load_le<std::uint64_t>(payload, 8);
  if (chunk_size == 0 || runs > (payload.size() - 16) / run_size)
    return false;
  if (chunk_size != content.chunk_size) { // chunks of another size can't be compared with those before
    content.chunk_size = chunk_size;
    content.chunks.clear();
    content.settled = 0;
  }
  for (std::uint64_t i = 0; i < runs; i++) {
    const std::size_t at = 16 + i * run_size;
    content.chunks.push_back({load_le<std::uint64_t>(payload, at),
                              load_le<std::uint64_t>(payload, at + 8),
                              {load_le<std::uint64_t>(payload, at + 16), load_le<std::uint64_t>(payload, at + 24)}});
  }
  const ByteSpan rest = payload.subspan(16 + runs * run_size);
  if (runs == 0 && rest.size() == settle_size && as_text(rest).starts_with(settle_magic))
    content.settled = std::min<std::size_t>(load_le<std::uint64_t>(rest, settle_magic.size()), content.chunks.size());
  else
    content.checkpoints.emplace_back(rest.begin(), rest.end());
  return true;
}

UniqueFd open_file(const fs::path& path) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0644));
  if (!fd)
    throw system_error(errno, "can't open " + path.string());
  return fd;
}

} // namespace

Digest digest_of(ByteSpan bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return {hash.high64, hash.low64};
}

DigestStream::DigestStream() : state_(XXH3_createState()) {
  if (!state_)
    throw std::bad_alloc();
  reset();
}

void DigestStream::Free::operator()(XXH3_state_s* state) const {
  XXH3_freeState(state);
}

void DigestStream::reset() {
  XXH3_128bits_reset(state_.get());
}

void DigestStream::update(ByteSpan bytes) {
  XXH3_128bits_update(state_.get(), bytes.data(), bytes.size());
}

Digest DigestStream::finish() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(state_.get());
  return {hash.high64, hash.low64};
}

Journal::Journal(fs::path path) : path_(std::move(path)) {
  for (;;) {
    file_ = open_file(path_);
    if (::flock(file_.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK)
        throw Error("OUTPUT_BUSY", "another run is writing this output", path_.string() + " is locked",
                    "wait for it, stop it, or choose another output");
      throw system_error(errno, "can't lock " + path_.string());
    }
    // The run that held the lock may have removed the file meanwhile: then it is the wrong one that we locked.
    struct stat ours {
    }, there{};
    if (::fstat(file_.get(), &ours) != 0)
      throw system_error(errno, "can't stat " + path_.string());
    if (!S_ISREG(ours.st_mode))
      throw Error("FILE_EXISTS", path_.string() + " is not a regular file", {}, "choose another output");
    if (::stat(path_.c_str(), &there) == 0 && there.st_ino == ours.st_ino && there.st_dev == ours.st_dev)
      break;
  }
  std::array<std::byte, magic.size()> begin{};
  const std::size_t n = read_some(file_.get(), 0, begin, path_.string());
  if (as_text(ByteSpan(begin).first(n)) != magic.substr(0, n))
    throw Error("FILE_EXISTS", path_.string() + " exists and is not a journal of a copy", {},
                "remove it, or choose another output");
}

std::optional<Journal::Content> Journal::load(const Digest& identity) {
  const std::uint64_t size = file_size(file_.get());
  Bytes header(header_size);
  if (size < header_size)
    return std::nullopt;
  read_exact(file_.get(), 0, header, path_.string());
  if (header != make_header(identity))
    return std::nullopt;
  Content content;
  end_ = header_size;
  while (size - end_ >= frame_size) {
    Bytes frame(frame_size);
    read_exact(file_.get(), end_, frame, path_.string());
    const auto length = load_le<std::uint64_t>(frame, 0);
    if (length > size - end_ - frame_size)
      break;
    Bytes payload(length);
    read_exact(file_.get(), end_ + frame_size, payload, path_.string());
    if (checksum(payload) != load_le<std::uint64_t>(frame, 8) || !parse(payload, content))
      break;
    end_ += frame_size + length;
  }
  if (content.checkpoints.empty())
    return std::nullopt;
  if (::ftruncate(file_.get(), static_cast<off_t>(end_)) != 0)
    throw system_error(errno, "can't cut " + path_.string());
  runs_ = content.chunks.size();
  return content;
}

void Journal::begin(const Digest& identity) {
  if (::ftruncate(file_.get(), 0) != 0)
    throw system_error(errno, "can't empty " + path_.string());
  write_exact(file_.get(), 0, make_header(identity), path_.string());
  if (::fsync(file_.get()) != 0)
    throw system_error(errno, "can't sync " + path_.string());
  sync_directory(path_.parent_path());
  end_ = header_size;
  runs_ = 0;
}

void Journal::write_record(std::uint64_t chunk_size, const std::vector<ChunkRun>& chunks, ByteSpan checkpoint) {
  Bytes record(frame_size + 16 + chunks.size() * run_size + checkpoint.size());
  store_le<std::uint64_t>(record, frame_size, chunk_size);
  store_le<std::uint64_t>(record, frame_size + 8, chunks.size());
  std::size_t at = frame_size + 16;
  for (const ChunkRun& run : chunks) {
    store_le<std::uint64_t>(record, at, run.first);
    store_le<std::uint64_t>(record, at + 8, run.count);
    store_le<std::uint64_t>(record, at + 16, run.digest.high);
    store_le<std::uint64_t>(record, at + 24, run.digest.low);
    at += run_size;
  }
  if (!checkpoint.empty())
    std::memcpy(record.data() + at, checkpoint.data(), checkpoint.size());
  const ByteSpan payload = ByteSpan(record).subspan(frame_size);
  store_le<std::uint64_t>(record, 0, payload.size());
  store_le<std::uint64_t>(record, 8, checksum(payload));
  write_exact(file_.get(), end_, record, path_.string());
  end_ += record.size();
  runs_ += chunks.size();
}

void Journal::append(std::uint64_t chunk_size, const std::vector<ChunkRun>& chunks, ByteSpan checkpoint) {
  write_record(chunk_size, chunks, checkpoint);
  if (::fdatasync(file_.get()) != 0)
    throw system_error(errno, "can't sync " + path_.string());
}

void Journal::note(std::uint64_t chunk_size, const std::vector<ChunkRun>& chunks) {
  write_record(chunk_size, chunks, {});
}

void Journal::settle(std::uint64_t chunk_size, std::size_t runs) {
  Bytes mark(settle_size);
  std::memcpy(mark.data(), settle_magic.data(), settle_magic.size());
  store_le<std::uint64_t>(mark, settle_magic.size(), runs);
  append(chunk_size, {}, mark);
}

void Journal::remove() {
  if (::unlink(path_.c_str()) != 0 && errno != ENOENT)
    throw system_error(errno, "can't remove " + path_.string());
}

} // namespace kvmport
