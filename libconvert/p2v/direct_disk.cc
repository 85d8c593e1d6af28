// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/direct_disk.h"

#include "libconvert/p2v/dirty_map.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <linux/fs.h>
#include <mutex>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

constexpr std::uint64_t memory_alignment = 4096;
constexpr std::uint64_t largest_read = 1U << 20;

struct Free {
  void operator()(std::byte* memory) const { std::free(memory); }
};
using AlignedBuffer = std::unique_ptr<std::byte[], Free>;

AlignedBuffer aligned_buffer(std::uint64_t size) {
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(memory_alignment, round_up(size, memory_alignment)));
  if (memory == nullptr)
    throw std::bad_alloc();
  return AlignedBuffer(memory);
}

/// The device is gone or refuses everything: to try its sectors one by one would take days.
bool hopeless(int problem) {
  return problem == ENXIO || problem == ENODEV || problem == EBADF || problem == EINVAL || problem == EFAULT;
}

} // namespace

struct DirectDisk::State {
  State(const fs::path& wanted, const DirectOptions& how);
  void open();
  void read_block(std::uint64_t offset, std::span<std::byte> out) const;
  int try_read(std::uint64_t offset, std::span<std::byte> out) const;
  void bisect(std::uint64_t offset, std::span<std::byte> out, int problem) const;
  void read_sector(std::uint64_t offset, std::span<std::byte> out, int problem) const;
  void give_up(std::uint64_t offset, std::uint64_t length, int problem) const;
  bool known_bad(std::uint64_t offset) const;
  bool beside_bad(std::uint64_t offset) const;

  const fs::path path;
  const DirectOptions options;
  UniqueFd fd;
  std::uint64_t size = 0;
  std::uint64_t alignment = 4096; ///< of offsets and lengths
  std::uint32_t sector = 512;
  bool direct = false;
  mutable std::mutex mutex;
  mutable std::vector<Range> bad;
};

DirectDisk::State::State(const fs::path& wanted, const DirectOptions& how) : path(wanted), options(how) {
  open();
  size = file_size(fd.get());
  struct stat st {};
  if (::fstat(fd.get(), &st) != 0)
    throw system_error(errno, "can't stat " + path.string());
  if (!S_ISBLK(st.st_mode))
    return;
  int logical = 0;
  if (::ioctl(fd.get(), BLKSSZGET, &logical) != 0 || logical < 512 || logical > 65536 ||
      !std::has_single_bit(static_cast<unsigned>(logical)))
    throw system_error(errno, "can't tell the sector size of " + path.string());
  sector = static_cast<std::uint32_t>(logical);
  alignment = sector;
}

void DirectDisk::State::open() {
  const UniqueFd checked = open_source(path); // it is a disk or a file
  const int flags = O_RDONLY | O_CLOEXEC | O_NOCTTY | (options.exclusive ? O_EXCL : 0);
  fd = UniqueFd(::open(path.c_str(), flags | O_DIRECT));
  direct = static_cast<bool>(fd);
  if (!fd && errno == EINVAL) // its filesystem has no direct reads
    fd = UniqueFd(::open(path.c_str(), flags));
  if (!fd && errno == EBUSY)
    throw Error("DISK_BUSY", path.string() + " is in use", "it is mounted, or held by a volume group or an array",
                "unmount it, or capture the running machine with --live");
  if (!fd)
    throw system_error(errno, "can't open " + path.string());
}

/// 0, or errno. Aligned in every respect.
int DirectDisk::State::try_read(std::uint64_t offset, std::span<std::byte> out) const {
  std::size_t done = 0;
  while (done < out.size()) {
    const ssize_t n = ::pread(fd.get(), out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return errno;
    if (n == 0) {
      if (offset + done < size)
        throw Error("DISK_TRUNCATED", path.string() + " ends too early",
                    "at offset " + std::to_string(offset + done) + " of " + std::to_string(size));
      break; // a file whose last block isn't whole
    }
    done += static_cast<std::size_t>(n);
    if (n % static_cast<ssize_t>(alignment) != 0 && offset + done >= size)
      break;
  }
  return 0;
}

bool DirectDisk::State::known_bad(std::uint64_t offset) const {
  const std::lock_guard lock(mutex);
  return std::any_of(bad.begin(), bad.end(),
                     [&](const Range& one) { return one.offset <= offset && offset < one.end(); });
}

bool DirectDisk::State::beside_bad(std::uint64_t offset) const {
  const std::lock_guard lock(mutex);
  return std::any_of(bad.begin(), bad.end(), [&](const Range& one) { return one.end() == offset; });
}

void DirectDisk::State::give_up(std::uint64_t offset, std::uint64_t length, int problem) const {
  const std::uint64_t last = (offset + length - 1) / sector;
  throw Error("DISK_READ_ERROR", path.string() + " can't be read",
              "sectors " + std::to_string(offset / sector) + " to " + std::to_string(last) + " of " +
                  std::to_string(sector) + " bytes: " + std::strerror(problem),
              "with --rescue such sectors become zeros and are listed in the report");
}

void DirectDisk::State::read_sector(std::uint64_t offset, std::span<std::byte> out, int problem) const {
  // Behind a bad sector the next is mostly bad too: it gets one attempt.
  const unsigned attempts = beside_bad(offset) ? 1 : std::max(options.attempts, 1U);
  for (unsigned i = 1; i < attempts && !known_bad(offset); i++) {
    std::this_thread::sleep_for(options.pause);
    problem = try_read(offset, out);
    if (problem == 0)
      return;
  }
  if (!options.rescue || hopeless(problem))
    give_up(offset, out.size(), problem);
  std::fill(out.begin(), out.end(), std::byte{0});
  const std::lock_guard lock(mutex);
  bad = united(std::move(bad), {{offset, out.size()}});
  if (bytes_of(bad) > options.most_bad_bytes)
    throw Error("DISK_READ_ERROR", path.string() + " is too damaged",
                std::to_string(bytes_of(bad)) + " bytes can't be read", "have it rescued by a specialist");
}

/// The bad sectors are found by halving.
void DirectDisk::State::bisect(std::uint64_t offset, std::span<std::byte> out, int problem) const {
  if (hopeless(problem))
    give_up(offset, out.size(), problem);
  if (out.size() <= alignment) {
    read_sector(offset, out, problem);
    return;
  }
  const std::uint64_t half = round_up(out.size() / 2, alignment);
  for (const auto& [from, part] : {std::pair(offset, out.first(half)), std::pair(offset + half, out.subspan(half))})
    if (const int again = try_read(from, part); again != 0)
      bisect(from, part, again);
}

void DirectDisk::State::read_block(std::uint64_t offset, std::span<std::byte> out) const {
  if (const int problem = try_read(offset, out); problem != 0)
    bisect(offset, out, problem);
}

DirectDisk::DirectDisk(const fs::path& path, const DirectOptions& options)
    : state_(std::make_unique<State>(path, options)) {}

DirectDisk::~DirectDisk() = default;

std::uint64_t DirectDisk::size() const {
  return state_->size;
}

ImageInfo DirectDisk::info() const {
  ImageInfo info;
  info.format = "raw";
  info.virtual_size = state_->size;
  info.logical_sector = state_->sector;
  info.files = {state_->path};
  return info;
}

std::vector<Extent> DirectDisk::extents(Range range) const {
  if (range.length == 0)
    return {};
  return {{range, ExtentKind::data}};
}

void DirectDisk::read(std::uint64_t offset, std::span<std::byte> out) const {
  const std::uint64_t alignment = state_->alignment;
  if (offset > state_->size || out.size() > state_->size - offset)
    throw Error("DISK_TRUNCATED", state_->path.string() + " ends before data that it should hold",
                "needs " + std::to_string(out.size()) + " bytes at offset " + std::to_string(offset));
  AlignedBuffer bounce;
  while (!out.empty()) {
    const std::uint64_t skip = offset % alignment;
    const std::uint64_t part = std::min<std::uint64_t>(out.size(), largest_read - skip);
    const bool aligned =
        skip == 0 && part % alignment == 0 && reinterpret_cast<std::uintptr_t>(out.data()) % memory_alignment == 0;
    if (aligned) {
      state_->read_block(offset, out.first(part));
    } else {
      const std::uint64_t length = round_up(skip + part, alignment);
      if (!bounce)
        bounce = aligned_buffer(length);
      state_->read_block(offset - skip, {bounce.get(), length});
      std::memcpy(out.data(), bounce.get() + skip, part);
    }
    out = out.subspan(part);
    offset += part;
  }
}

std::vector<Range> DirectDisk::bad_ranges() const {
  const std::lock_guard lock(state_->mutex);
  return state_->bad;
}

bool DirectDisk::direct() const {
  return state_->direct;
}

} // namespace kvmport
