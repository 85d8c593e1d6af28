// SPDX-License-Identifier: Apache-2.0
#include "libconvert/copy/copy.h"
#include "libconvert/copy/engine.h"
#include "libconvert/copy/journal.h"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

fs::path with_suffix(fs::path path, const char* suffix) {
  path += suffix;
  return path;
}

Digest identity_of(const CreateOptions& create, const std::string& source_id) {
  const std::string text =
      "format=" + create.format + " compression=" + std::to_string(static_cast<int>(create.compression)) +
      " cluster=" + std::to_string(create.cluster_size) + " size=" + std::to_string(create.size) + "\n" + source_id;
  return digest_of(as_bytes(text));
}

void remove_file(const fs::path& path) {
  if (::unlink(path.c_str()) != 0 && errno != ENOENT)
    throw system_error(errno, "can't remove " + path.string());
}

/// Renames without replacing, also where the file system does not know how to.
void rename_new(const fs::path& from, const fs::path& to) {
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0)
    return;
  if (errno == EINVAL || errno == ENOSYS) {
    if (::link(from.c_str(), to.c_str()) == 0) { // fails on an existing name
      remove_file(from);
      return;
    }
    if (errno == EPERM || errno == EOPNOTSUPP) { // a file system without links: the best that is left
      struct stat st {};
      errno = ::lstat(to.c_str(), &st) == 0 ? EEXIST : 0;
      if (errno == 0 && ::rename(from.c_str(), to.c_str()) == 0)
        return;
    }
  }
  if (errno == EEXIST)
    throw Error("FILE_EXISTS", to.string() + " exists already", {}, "remove it, or ask for --force");
  throw system_error(errno, "can't rename " + from.string() + " to " + to.string());
}

} // namespace

std::string image_identity(const Image& image) {
  std::string id = "size=" + std::to_string(image.size());
  for (const fs::path& file : image.info().files) {
    struct stat st {};
    if (::stat(file.c_str(), &st) != 0)
      throw system_error(errno, "can't stat " + file.string());
    timespec time = st.st_mtim;
    if (S_ISBLK(st.st_mode))
      ::clock_gettime(CLOCK_REALTIME, &time);
    id += "\n" + fs::absolute(file).string() + " " + std::to_string(st.st_dev) + ":" + std::to_string(st.st_ino) + " " +
          std::to_string(st.st_size) + " " + std::to_string(time.tv_sec) + "." + std::to_string(time.tv_nsec);
  }
  return id;
}

struct PartialDisk::State {
  State(const fs::path& path, CreateOptions options)
      : final_path(path), partial(with_suffix(path, ".partial")), create(std::move(options)),
        journal(with_suffix(partial, ".journal")) {}

  const fs::path final_path, partial;
  const CreateOptions create;
  Journal journal;
  std::unique_ptr<ImageWriter> writer;
  UniqueFd sync_file; ///< the partial file, to sync it beside the writer
  Journal::Content recorded;
  bool resumed = false;
  bool finished = false;

  bool resume(const Digest& identity);
  void start(const Digest& identity);
};

/// Goes on with what an earlier run left; false when that can't be used.
bool PartialDisk::State::resume(const Digest& identity) {
  auto content = journal.load(identity);
  struct stat st {};
  if (!content || ::lstat(partial.c_str(), &st) != 0 || !S_ISREG(st.st_mode))
    return false;
  try {
    CreateOptions options = create;
    options.resume = true;
    writer = create_image(partial, options);
    writer->restore(content->checkpoints);
  } catch (const Error&) { // damaged: begin again
    writer.reset();
    return false;
  }
  content->checkpoints.clear();
  recorded = std::move(*content);
  resumed = true;
  return true;
}

void PartialDisk::State::start(const Digest& identity) {
  remove_file(partial);
  writer = create_image(partial, create);
  journal.begin(identity);
}

PartialDisk::PartialDisk(const fs::path& final_path, const CreateOptions& create, const std::string& source_id)
    : state_(std::make_unique<State>(final_path, create)) {
  const Digest identity = identity_of(create, source_id);
  if (!state_->resume(identity))
    state_->start(identity);
  state_->sync_file = open_existing(state_->partial);
}

PartialDisk::~PartialDisk() = default;

ImageWriter& PartialDisk::writer() {
  return *state_->writer;
}

const fs::path& PartialDisk::partial_path() const {
  return state_->partial;
}

CopyStats PartialDisk::copy(const Image& image, const CopyOptions& options, EventSink& sink, const StopToken& stop) {
  if (image.size() > state_->create.size)
    throw Error("SIZE_MISMATCH", "the disk is larger than the image that it is copied to",
                std::to_string(image.size()) + " and " + std::to_string(state_->create.size) + " bytes");
  CopyOptions settings = options;
  settings.chunk = round_up(std::max<std::uint64_t>(options.chunk, 4096), state_->writer->block_size());
  const CopyJob job{image, *state_->writer, settings, state_->resumed, sink, stop};
  ChunkRanges done;
  if (state_->recorded.chunk_size == settings.chunk && !state_->recorded.chunks.empty()) {
    sink.stage("copy", "checking what an earlier run copied");
    done = verify_chunks(job, state_->recorded.chunks);
  }
  state_->recorded = {};
  Checkpointing checkpointing;
  checkpointing.prepare = [this] { (void)::fdatasync(state_->sync_file.get()); }; // save() looks for errors
  checkpointing.save = [this, &settings](const std::vector<ChunkRun>& chunks) {
    state_->journal.append(settings.chunk, chunks, state_->writer->checkpoint());
  };
  return copy_chunks(job, done, checkpointing);
}

void PartialDisk::merge(const Overlay& overlay, EventSink& sink, const StopToken& stop) {
  // Whole blocks of the writer, so that it never has to read a block back to change a part of it.
  const std::uint64_t block = std::max(state_->writer->block_size(), Overlay::granule);
  const std::uint64_t piece = round_up(2U << 20, block), size = overlay.size();
  std::vector<Range> ranges;
  std::uint64_t total = 0, done = 0;
  for (const Extent& extent : overlay.dirty()) {
    const std::uint64_t begin = extent.range.offset / block * block;
    const std::uint64_t end = std::min(size, round_up(extent.range.end(), block));
    if (!ranges.empty() && ranges.back().end() >= begin)
      ranges.back().length = std::max(ranges.back().end(), end) - ranges.back().offset;
    else
      ranges.push_back({begin, end - begin});
  }
  for (const Range& range : ranges)
    total += range.length;
  Bytes buffer;
  for (const Range& range : ranges) {
    for (std::uint64_t at = range.offset; at < range.end(); at += buffer.size()) {
      stop.check();
      buffer.resize(std::min(piece, range.end() - at));
      overlay.read(at, buffer);
      for (std::uint64_t inside = 0; inside < buffer.size(); inside += block) {
        const ByteSpan bytes = ByteSpan(buffer).subspan(inside, std::min<std::uint64_t>(block, buffer.size() - inside));
        if (is_zero(bytes))
          state_->writer->zero({at + inside, bytes.size()});
        else
          state_->writer->write(at + inside, bytes);
      }
      done += buffer.size();
      sink.progress("merge", done, total);
    }
  }
}

void PartialDisk::finish() {
  if (!state_->finished)
    state_->writer->finish();
  state_->finished = true;
}

void PartialDisk::publish(bool replace) {
  finish();
  if (!replace)
    rename_new(state_->partial, state_->final_path);
  else if (::rename(state_->partial.c_str(), state_->final_path.c_str()) != 0)
    throw system_error(errno, "can't rename " + state_->partial.string());
  sync_directory(state_->final_path.parent_path());
  state_->journal.remove();
}

void PartialDisk::discard() {
  state_->writer.reset();
  remove_file(state_->partial);
  state_->journal.remove();
}

} // namespace kvmport
