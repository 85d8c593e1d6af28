// SPDX-License-Identifier: Apache-2.0
#include "libconvert/copy/engine.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <iterator>
#include <map>
#include <mutex>

namespace kvmport {
namespace {

using Clock = std::chrono::steady_clock;

/// Digests of chunks that are all zeros, without making them each time.
class ZeroDigests {
 public:
  ZeroDigests(std::uint64_t size, std::uint64_t chunk_size) : size_(size), chunk_size_(chunk_size) {
    const Bytes zeros(std::min(size, chunk_size));
    full_ = digest_of(zeros);
    last_ = digest_of(ByteSpan(zeros).first(size % chunk_size != 0 ? size % chunk_size : zeros.size()));
  }

  /// Appends the run; the disk's short last chunk gets an entry of its own.
  void append(std::vector<ChunkRun>& runs, std::uint64_t first, std::uint64_t count) const {
    const bool last_is_short = size_ % chunk_size_ != 0 && first + count == div_round_up(size_, chunk_size_);
    const std::uint64_t full = last_is_short ? count - 1 : count;
    if (full != 0) {
      if (!runs.empty() && runs.back().first + runs.back().count == first && runs.back().digest == full_)
        runs.back().count += full;
      else
        runs.push_back({first, full, full_});
    }
    if (last_is_short)
      runs.push_back({first + full, 1, last_});
  }
  bool matches(const ChunkRun& run) const { return run.digest == full_; }

 private:
  std::uint64_t size_, chunk_size_;
  Digest full_, last_;
};

constexpr std::uint64_t piece_size = 256U << 10;

/// What one thread works with.
struct Desk {
  Bytes buffer;
  DigestStream digest;
};

class Copier {
 public:
  Copier(const CopyJob& job, const ChunkRanges& done, const Checkpointing& checkpointing)
      : job_(job), checkpointing_(checkpointing), size_(job.image.size()), chunk_size_(job.options.chunk),
        planner_(job.image, chunk_size_, job.options.skip, done), zeros_(size_, chunk_size_) {
    for (const Range& range : done)
      reused_ += std::min(size_, range.end() * chunk_size_) - range.offset * chunk_size_;
    finished_ = reused_;
  }

  CopyStats run();

 private:
  bool step(unsigned worker);
  void tick();
  void save();
  void copy_chunk(const CopyTask& task, Desk& desk);
  void write_runs(std::uint64_t offset, ByteSpan bytes);

  const CopyJob& job_;
  const Checkpointing& checkpointing_;
  const std::uint64_t size_, chunk_size_;
  Workers workers_;
  std::vector<Desk> desks_;

  std::mutex plan_mutex_;
  Planner planner_;
  const ZeroDigests zeros_;

  std::mutex pending_mutex_;
  std::vector<ChunkRun> pending_;
  std::atomic<std::uint64_t> finished_{0}, data_{0}, skipped_{0}, unsaved_{0};
  std::uint64_t reused_ = 0;
  Clock::time_point saved_ = Clock::now();
};

bool Copier::step(unsigned worker) {
  CopyTask task;
  {
    const std::lock_guard lock(plan_mutex_);
    if (!planner_.next(task))
      return false;
  }
  const std::uint64_t begin = task.first_chunk * chunk_size_;
  const std::uint64_t length = std::min(size_ - begin, task.chunks * chunk_size_);
  if (task.data.empty()) {
    if (job_.rewrite)
      job_.writer.zero({begin, length});
    const std::lock_guard lock(pending_mutex_);
    zeros_.append(pending_, task.first_chunk, task.chunks);
  } else {
    copy_chunk(task, desks_[worker]);
  }
  skipped_ += task.skipped;
  finished_ += length;
  return true;
}

/// Piece by piece, so that what was read is still in the CPU's cache when it is hashed and written. Large writes also
/// make some kernels work harder for their memory.
void Copier::copy_chunk(const CopyTask& task, Desk& desk) {
  const std::uint64_t begin = task.first_chunk * chunk_size_, end = std::min(size_, begin + chunk_size_);
  const std::uint64_t piece = round_up(piece_size, std::max<std::uint64_t>(job_.writer.block_size(), 4096));
  desk.digest.reset();
  std::size_t next = 0; // of the task's data ranges
  for (std::uint64_t at = begin; at < end; at += desk.buffer.size()) {
    desk.buffer.resize(std::min(piece, end - at));
    const Range here{at, desk.buffer.size()};
    std::uint64_t filled = at;
    while (next < task.data.size() && task.data[next].offset < here.end()) {
      const std::uint64_t from = std::max(at, task.data[next].offset), to = std::min(here.end(), task.data[next].end());
      std::memset(desk.buffer.data() + (filled - at), 0, from - filled);
      job_.image.read(from, std::span(desk.buffer).subspan(from - at, to - from));
      filled = to;
      if (to < task.data[next].end())
        break; // goes on in the next piece
      next++;
    }
    std::memset(desk.buffer.data() + (filled - at), 0, here.end() - filled);
    desk.digest.update(desk.buffer);
    write_runs(at, desk.buffer);
  }
  const ChunkRun run{task.first_chunk, 1, desk.digest.finish()};
  const std::lock_guard lock(pending_mutex_);
  pending_.push_back(run);
}

/// Writes what is not zero, in runs of whole blocks of the writer.
void Copier::write_runs(std::uint64_t offset, ByteSpan bytes) {
  const std::uint64_t block = std::max<std::uint64_t>(job_.writer.block_size(), 4096);
  const auto zero_at = [&](std::uint64_t at) {
    return is_zero(bytes.subspan(at, std::min<std::uint64_t>(block, bytes.size() - at)));
  };
  for (std::uint64_t at = 0; at < bytes.size();) {
    const bool zero = zero_at(at);
    std::uint64_t end = std::min<std::uint64_t>(at + block, bytes.size());
    while (end < bytes.size() && zero_at(end) == zero)
      end = std::min<std::uint64_t>(end + block, bytes.size());
    if (!zero) {
      job_.writer.write(offset + at, bytes.subspan(at, end - at));
      data_ += end - at;
      unsaved_ += end - at;
    } else if (job_.rewrite) {
      job_.writer.zero({offset + at, end - at});
    }
    at = end;
  }
}

/// The chunks that were finished since the last time go to the journal. No thread is inside a step.
void Copier::save() {
  if (!pending_.empty())
    checkpointing_.save(pending_);
  pending_.clear();
  unsaved_ = 0;
  saved_ = Clock::now();
}

void Copier::tick() {
  job_.sink.progress("copy", finished_, size_);
  if (Clock::now() - saved_ < job_.options.checkpoint_interval && unsaved_ < job_.options.checkpoint_bytes)
    return;
  checkpointing_.prepare();
  workers_.paused([this] { save(); });
}

CopyStats Copier::run() {
  const unsigned count = Workers::count_for(job_.options.workers);
  desks_ = std::vector<Desk>(count);
  try {
    workers_.run(
        count, [this](unsigned worker) { return step(worker); }, [this] { tick(); }, job_.stop);
  } catch (...) {
    try {
      save();
    } catch (const std::exception&) { // the first error is the one that tells
    }
    throw;
  }
  save();
  job_.sink.progress("copy", size_, size_);
  CopyStats stats;
  stats.total = size_;
  stats.data = data_;
  stats.skipped = skipped_;
  stats.reused = reused_;
  // A block that is partly free counts as data as well as skipped.
  stats.zero = size_ - std::min(size_, reused_ + stats.data + stats.skipped);
  return stats;
}

/// Reads runs back, chunk by chunk, and keeps those that are as they should be.
class Verifier {
 public:
  Verifier(const CopyJob& job, std::vector<ChunkRun> runs)
      : job_(job), size_(job.image.size()), chunk_size_(job.options.chunk), runs_(std::move(runs)),
        zeros_(size_, chunk_size_) {}

  ChunkRanges run();

 private:
  bool step(unsigned worker);
  bool known_zero(const ChunkRun& run) const;
  bool holds(std::uint64_t chunk, const Digest& digest, Bytes& buffer) const;

  const CopyJob& job_;
  const std::uint64_t size_, chunk_size_;
  const std::vector<ChunkRun> runs_;
  const ZeroDigests zeros_;
  Workers workers_;
  std::vector<Bytes> buffers_;
  std::mutex mutex_;
  std::size_t run_at_ = 0;
  std::uint64_t inside_ = 0; ///< chunks of runs_[run_at_] that were taken
  std::map<std::uint64_t, std::uint64_t> good_;
  std::atomic<std::uint64_t> checked_{0};
};

/// True when the run should be zeros and the writer knows that it is.
bool Verifier::known_zero(const ChunkRun& run) const {
  const std::uint64_t begin = run.first * chunk_size_;
  return zeros_.matches(run) && job_.writer.known_zero({begin, std::min(size_ - begin, run.count * chunk_size_)});
}

bool Verifier::holds(std::uint64_t chunk, const Digest& digest, Bytes& buffer) const {
  const std::uint64_t begin = chunk * chunk_size_;
  buffer.resize(std::min(chunk_size_, size_ - begin));
  try {
    job_.writer.read(begin, buffer);
  } catch (const Error&) { // what can't be read is copied again
    return false;
  }
  return digest_of(buffer) == digest;
}

bool Verifier::step(unsigned worker) {
  ChunkRun task;
  {
    const std::lock_guard lock(mutex_);
    if (run_at_ == runs_.size())
      return false;
    const ChunkRun& run = runs_[run_at_];
    task = {run.first + inside_, 1, run.digest};
    if (inside_ == 0 && run.count > 1 && known_zero(run))
      task.count = run.count;
    inside_ += task.count;
    if (inside_ == run.count) {
      run_at_++;
      inside_ = 0;
    }
  }
  const bool good = task.count > 1 || known_zero(task) || holds(task.first, task.digest, buffers_[worker]);
  const std::lock_guard lock(mutex_);
  if (good) {
    good_[task.first] = task.count;
    checked_ += task.count * chunk_size_;
  }
  return true;
}

ChunkRanges Verifier::run() {
  const unsigned count = Workers::count_for(job_.options.workers);
  buffers_.resize(count);
  workers_.run(
      count, [this](unsigned worker) { return step(worker); },
      [this] { job_.sink.progress("copy", std::min(size_, checked_.load()), size_); }, job_.stop);
  ChunkRanges ranges;
  for (const auto& [first, chunks] : good_) {
    if (!ranges.empty() && ranges.back().end() == first)
      ranges.back().length += chunks;
    else
      ranges.push_back({first, chunks});
  }
  return ranges;
}

} // namespace

CopyStats copy_chunks(const CopyJob& job, const ChunkRanges& done, const Checkpointing& checkpointing) {
  return Copier(job, done, checkpointing).run();
}

ChunkRanges verify_chunks(const CopyJob& job, const std::vector<ChunkRun>& recorded) {
  return Verifier(job, settle_runs(recorded, div_round_up(job.image.size(), job.options.chunk))).run();
}

std::vector<ChunkRun> settle_runs(const std::vector<ChunkRun>& runs, std::uint64_t chunks) {
  std::map<std::uint64_t, ChunkRun> settled;
  for (ChunkRun run : runs) {
    if (run.first >= chunks || run.count == 0)
      continue;
    run.count = std::min(run.count, chunks - run.first);
    const std::uint64_t end = run.first + run.count;
    auto at = settled.lower_bound(run.first);
    if (at != settled.begin() && std::prev(at)->second.first + std::prev(at)->second.count > run.first)
      --at;
    while (at != settled.end() && at->first < end) {
      const ChunkRun old = at->second;
      at = settled.erase(at);
      if (old.first < run.first)
        settled[old.first] = {old.first, run.first - old.first, old.digest};
      if (old.first + old.count > end)
        at = settled.insert_or_assign(end, ChunkRun{end, old.first + old.count - end, old.digest}).first;
    }
    settled[run.first] = run;
  }
  std::vector<ChunkRun> list;
  for (const auto& [first, run] : settled)
    list.push_back(run);
  return list;
}

} // namespace kvmport
