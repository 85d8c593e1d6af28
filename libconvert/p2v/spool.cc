// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/spool.h"

#include "libconvert/copy/copy.h"
#include "libconvert/copy/workers.h"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

fs::path journal_path(fs::path path) {
  path += ".journal";
  return path;
}

std::unique_ptr<ImageWriter> open_writer(const fs::path& path, std::uint64_t size) {
  struct stat st {};
  CreateOptions options;
  options.format = "raw";
  options.size = size;
  options.resume = ::lstat(path.c_str(), &st) == 0;
  if (options.resume && !S_ISREG(st.st_mode))
    throw Error("FILE_EXISTS", path.string() + " is not a regular file");
  return create_image(path, options);
}

/// Puts the plain bytes of `chunk` into `out`.
void unpack(const ChunkMessage& chunk, std::span<std::byte> out) {
  if (!chunk.compressed) {
    std::copy(chunk.data.begin(), chunk.data.end(), out.begin());
    return;
  }
  const std::size_t n = ZSTD_decompress(out.data(), out.size(), chunk.data.data(), chunk.data.size());
  if (ZSTD_isError(n) != 0 || n != out.size())
    throw Error("PROTOCOL_ERROR", "a compressed chunk can't be unpacked",
                ZSTD_isError(n) != 0 ? ZSTD_getErrorName(n) : "its length is wrong");
}

} // namespace

// --- a disk --------------------------------------------------------------------------------------------------------

SpooledDisk::SpooledDisk(fs::path path, std::uint64_t size, const std::string& identity)
    : path_(std::move(path)), size_(size), zero_(zero_digest(std::min(size, p2v_chunk_size))),
      last_zero_(zero_digest(size % p2v_chunk_size == 0 ? std::min(size, p2v_chunk_size) : size % p2v_chunk_size)),
      digests_(div_round_up(size, p2v_chunk_size), zero_), journal_(journal_path(path_)) {
  digests_.back() = last_zero_;
  load(identity);
}

void SpooledDisk::load(const std::string& identity) {
  const Digest id = digest_of(as_bytes(identity));
  const auto content = journal_.load(id);
  if (!content) {
    std::error_code ignored;
    fs::remove(path_, ignored);
    writer_ = open_writer(path_, size_);
    sync_file_ = open_existing(path_);
    journal_.begin(id);
    return;
  }
  writer_ = open_writer(path_, size_);
  sync_file_ = open_existing(path_);
  if (content->chunk_size != p2v_chunk_size)
    throw Error("PROTOCOL_ERROR", path_.string() + " was begun by another version", {}, "remove it");
  Bytes scratch;
  std::vector<std::uint64_t> unsure;
  for (std::size_t i = 0; i < content->chunks.size(); i++) {
    const ChunkRun& run = content->chunks[i];
    for (std::uint64_t n = run.first; n < digests_.size() && n - run.first < run.count; n++) {
      digests_[n] = run.digest;
      if (i >= content->settled)
        unsure.push_back(n);
    }
  }
  for (const std::uint64_t chunk : unsure)
    if (const Digest found = read_back(chunk, scratch); found != digests_[chunk]) {
      digests_[chunk] = found;
      journal_.note(p2v_chunk_size, {{chunk, 1, found}}); // settle() promises what the journal says
    }
}

std::uint64_t SpooledDisk::length_of(std::uint64_t chunk) const {
  return std::min(p2v_chunk_size, size_ - chunk * p2v_chunk_size);
}

const Digest& SpooledDisk::zeros(std::uint64_t chunk) const {
  return chunk + 1 == digests_.size() ? last_zero_ : zero_;
}

Digest SpooledDisk::read_back(std::uint64_t chunk, Bytes& scratch) {
  scratch.resize(length_of(chunk));
  writer_->read(chunk * p2v_chunk_size, scratch);
  return digest_of(scratch);
}

std::uint64_t SpooledDisk::allocated() const {
  struct stat st {};
  return ::fstat(sync_file_.get(), &st) == 0 ? static_cast<std::uint64_t>(st.st_blocks) * 512 : 0;
}

std::vector<ChunkRun> SpooledDisk::have() const {
  std::vector<ChunkRun> runs;
  for (std::uint64_t i = 0; i < digests_.size(); i++) {
    if (digests_[i] == zeros(i))
      continue;
    if (!runs.empty() && runs.back().first + runs.back().count == i && runs.back().digest == digests_[i])
      runs.back().count++;
    else
      runs.push_back({i, 1, digests_[i]});
  }
  return runs;
}

bool SpooledDisk::store(const ChunkMessage& chunk, Bytes& scratch) {
  if (chunk.index >= digests_.size())
    throw Error("PROTOCOL_ERROR", fmt::format("chunk {} is beyond the disk's end", chunk.index),
                fmt::format("the disk has {} chunks", digests_.size()));
  const std::uint64_t length = length_of(chunk.index), begin = chunk.index * p2v_chunk_size;
  if (!chunk.extents.empty() && std::uint64_t{chunk.extents.back().offset} + chunk.extents.back().length > length)
    throw Error("PROTOCOL_ERROR", fmt::format("chunk {} is longer than its place", chunk.index));
  scratch.assign(p2v_chunk_size + chunk.plain, std::byte{0});
  const std::span<std::byte> whole = std::span(scratch).first(length);
  const std::span<std::byte> plain = std::span(scratch).subspan(p2v_chunk_size, chunk.plain);
  unpack(chunk, plain);
  if (chunk.patch)
    writer_->read(begin, whole);
  std::size_t at = 0;
  for (const ChunkExtent& extent : chunk.extents) {
    std::memcpy(whole.data() + extent.offset, plain.data() + at, extent.length);
    at += extent.length;
  }
  const bool right = digest_of(whole) == chunk.digest;
  if (!right && chunk.patch)
    return false;
  if (!right)
    throw Error("DIGEST_MISMATCH", fmt::format("chunk {} arrived damaged", chunk.index), "its digest is another",
                "run it again; when it happens again, test the memory of both machines");
  std::uint64_t filled = 0;
  at = 0;
  for (const ChunkExtent& extent : chunk.extents) {
    if (!chunk.patch && extent.offset > filled)
      writer_->zero({begin + filled, extent.offset - filled});
    writer_->write(begin + extent.offset, plain.subspan(at, extent.length));
    at += extent.length;
    filled = std::uint64_t{extent.offset} + extent.length;
  }
  if (!chunk.patch && filled < length)
    writer_->zero({begin + filled, length - filled});
  const std::lock_guard lock(journal_mutex_);
  digests_[chunk.index] = chunk.digest;
  journal_.note(p2v_chunk_size, {{chunk.index, 1, chunk.digest}});
  return true;
}

void SpooledDisk::settle() {
  std::size_t runs = 0;
  {
    const std::lock_guard lock(journal_mutex_);
    runs = journal_.runs();
  }
  if (runs == settled_)
    return;
  if (::fdatasync(sync_file_.get()) != 0)
    throw system_error(errno, "can't sync " + path_.string());
  const std::lock_guard lock(journal_mutex_);
  journal_.settle(p2v_chunk_size, runs);
  settled_ = runs;
}

bool SpooledDisk::verify(EventSink& sink, const StopToken& stop) {
  OpenOptions raw;
  raw.format = "raw";
  const auto image = open_image(path_, raw);
  std::mutex mutex;
  std::uint64_t next = 0;
  bool same = true;
  const unsigned count = Workers::count_for(0);
  std::vector<Bytes> buffers(count);
  const auto step = [&](unsigned worker) {
    std::uint64_t chunk = 0;
    {
      const std::lock_guard lock(mutex);
      if (next == digests_.size())
        return false;
      chunk = next++;
    }
    const auto extents = image->extents({chunk * p2v_chunk_size, length_of(chunk)});
    const bool hole = std::all_of(extents.begin(), extents.end(),
                                  [](const Extent& extent) { return extent.kind != ExtentKind::data; });
    const Digest found = hole ? zeros(chunk) : read_back(chunk, buffers[worker]);
    if (found == digests_[chunk])
      return true;
    const std::lock_guard lock(mutex);
    digests_[chunk] = found;
    same = false;
    return true;
  };
  Workers workers;
  workers.run(
      count, step,
      [&] {
        const std::lock_guard lock(mutex);
        sink.progress("verify", std::min(size_, next * p2v_chunk_size), size_);
      },
      stop);
  return same;
}

// --- all disks -----------------------------------------------------------------------------------------------------

Spool::Spool(const fs::path& directory, const ManifestMessage& manifest)
    : directory_(directory / directory_name(manifest.name)) {
  if (::mkdir(directory_.c_str(), 0700) != 0 && errno != EEXIST)
    throw system_error(errno, "can't make " + directory_.string());
  struct stat st {};
  if (::lstat(directory_.c_str(), &st) != 0 || !S_ISDIR(st.st_mode) || st.st_uid != ::geteuid())
    throw Error("FILE_EXISTS", directory_.string() + " is not a directory of this user");
  lock_ = UniqueFd(::open((directory_ / "lock").c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!lock_)
    throw system_error(errno, "can't open the lock in " + directory_.string());
  if (::flock(lock_.get(), LOCK_EX | LOCK_NB) != 0)
    throw Error("OUTPUT_BUSY", "another receiver is working for " + manifest.name, directory_.string() + " is locked",
                "wait for it, stop it, or give another --name");
  const std::string identity = manifest.identity();
  const fs::path id_file = directory_ / "identity";
  if (fs::exists(id_file) && read_file(id_file, 1U << 20) != identity)
    throw Error("NAME_TAKEN", "another machine's capture stands under the name " + manifest.name,
                directory_.string() + " was begun for other disks",
                "give another --name, or remove that directory on the server");
  write_file_durably(id_file, identity);
  std::uint64_t needed = 0;
  for (std::size_t i = 0; i < manifest.disks.size(); i++) {
    disks_.push_back(std::make_unique<SpooledDisk>(
        directory_ / ("sd" + disk_letters(static_cast<unsigned>(i)) + ".img"), manifest.disks[i].size, identity));
    needed += manifest.disks[i].used - std::min(manifest.disks[i].used, disks_.back()->allocated());
  }
  check_space(directory_, needed);
}

void Spool::settle() {
  for (auto& disk : disks_)
    disk->settle();
}

void Spool::remove() {
  disks_.clear();
  std::error_code error;
  fs::remove_all(directory_, error);
}

} // namespace kvmport
