// SPDX-License-Identifier: Apache-2.0
#include "formats/ext2_io.h"

#include <algorithm>
#include <cstdio>
#include <list>
#include <unordered_map>

namespace kvmport {

/// What an io_channel's private_data points to.
struct Ext2Handle::Device {
  static constexpr std::uint64_t piece = 64U << 10;
  static constexpr std::size_t pieces_kept = 256;

  const Image* image = nullptr;
  WritableImage* writable = nullptr; ///< null: read-only
  Range range;
  std::uint64_t may_read = UINT64_MAX; ///< bytes
  struct Piece {
    Bytes bytes;
    std::list<std::uint64_t>::iterator age;
    std::uint64_t dirty_from = piece, dirty_to = 0; ///< what was written and is not on the disk yet
  };
  std::unordered_map<std::uint64_t, Piece> cache;
  std::list<std::uint64_t> order; ///< newest first

  void read(std::uint64_t offset, std::span<std::byte> out);
  void write(std::uint64_t offset, ByteSpan data);
  void flush();
  bool inside(std::uint64_t offset, std::uint64_t length) const {
    return offset <= range.length && length <= range.length - offset;
  }

 private:
  Piece& piece_at(std::uint64_t index);
  void write_back(std::uint64_t index, Piece& one);
};

Ext2Handle::Device::Piece& Ext2Handle::Device::piece_at(std::uint64_t index) {
  if (auto found = cache.find(index); found != cache.end()) {
    order.splice(order.begin(), order, found->second.age);
    return found->second;
  }
  Bytes bytes(std::min(piece, range.length - index * piece));
  image->read(range.offset + index * piece, bytes);
  if (cache.size() >= pieces_kept) {
    write_back(order.back(), cache.at(order.back()));
    cache.erase(order.back());
    order.pop_back();
  }
  order.push_front(index);
  return cache.emplace(index, Piece{std::move(bytes), order.begin()}).first->second;
}

void Ext2Handle::Device::write_back(std::uint64_t index, Piece& one) {
  if (one.dirty_to > one.dirty_from)
    writable->write(range.offset + index * piece + one.dirty_from,
                    ByteSpan(one.bytes).subspan(one.dirty_from, one.dirty_to - one.dirty_from));
  one.dirty_from = piece;
  one.dirty_to = 0;
}

/// In the order of the disk.
void Ext2Handle::Device::flush() {
  std::vector<std::uint64_t> indexes(order.begin(), order.end());
  std::ranges::sort(indexes);
  for (const std::uint64_t index : indexes)
    write_back(index, cache.at(index));
}

void Ext2Handle::Device::read(std::uint64_t offset, std::span<std::byte> out) {
  for (std::size_t done = 0; done < out.size();) {
    const std::uint64_t at = offset + done;
    const Bytes& bytes = piece_at(at / piece).bytes;
    const std::size_t from = at % piece;
    const std::size_t n = std::min(out.size() - done, bytes.size() - from);
    std::memcpy(out.data() + done, bytes.data() + from, n);
    done += n;
  }
}

/// Kept until flush(), or until the piece has to make room: libext2fs writes block by block.
void Ext2Handle::Device::write(std::uint64_t offset, ByteSpan data) {
  while (!data.empty()) {
    Piece& one = piece_at(offset / piece);
    const std::size_t from = offset % piece, n = std::min<std::size_t>(data.size(), piece - from);
    std::ranges::copy(data.first(n), one.bytes.begin() + static_cast<std::ptrdiff_t>(from));
    one.dirty_from = std::min<std::uint64_t>(one.dirty_from, from);
    one.dirty_to = std::max<std::uint64_t>(one.dirty_to, from + n);
    data = data.subspan(n);
    offset += n;
  }
}

namespace {

/// io_manager callbacks are C: an exception of ours becomes an errcode_t.
template <typename Body> errcode_t guarded(Body body) noexcept {
  try {
    body();
    return 0;
  } catch (const std::exception&) {
    return EIO;
  }
}

} // namespace

struct Ext2Io {
  template <typename Device> struct Calls {
    static Device* device(io_channel channel) { return static_cast<Device*>(channel->private_data); }

    static std::uint64_t bytes(io_channel channel, int count) {
      return count < 0 ? static_cast<std::uint64_t>(-static_cast<std::int64_t>(count))
                       : static_cast<std::uint64_t>(count) * static_cast<std::uint64_t>(channel->block_size);
    }

    static errcode_t open(const char* name, int, io_channel* channel) {
      void* device = nullptr;
      if (std::sscanf(name, "%p", &device) != 1) // NOLINT(cert-err34-c): the name was printed with %p by open_handle()
        return EINVAL;
      auto* c = static_cast<io_channel>(std::calloc(1, sizeof(struct_io_channel)));
      if (c == nullptr)
        return ENOMEM;
      c->magic = EXT2_ET_MAGIC_IO_CHANNEL;
      c->manager = manager();
      c->name = ::strdup("kvmport");
      c->block_size = 1024;
      c->refcount = 1;
      c->private_data = device;
      *channel = c;
      return 0;
    }

    static errcode_t close(io_channel channel) {
      if (--channel->refcount > 0)
        return 0; // ext2fs_close2() has flushed
      std::free(channel->name);
      std::free(channel);
      return 0;
    }

    static errcode_t set_blksize(io_channel channel, int size) {
      channel->block_size = size;
      return 0;
    }

    static errcode_t read64(io_channel channel, unsigned long long block, int count, void* data) {
      Device* d = device(channel);
      const std::uint64_t length = bytes(channel, count);
      std::uint64_t offset = 0;
      if (__builtin_mul_overflow(block, static_cast<std::uint64_t>(channel->block_size), &offset) ||
          !d->inside(offset, length))
        return EXT2_ET_SHORT_READ;
      if (length > d->may_read)
        return EXT2_ET_CANCEL_REQUESTED;
      d->may_read -= length;
      return guarded([&] { d->read(offset, {static_cast<std::byte*>(data), length}); });
    }

    static errcode_t write64(io_channel channel, unsigned long long block, int count, const void* data) {
      Device* d = device(channel);
      const std::uint64_t length = bytes(channel, count);
      std::uint64_t offset = 0;
      if (d->writable == nullptr)
        return EROFS;
      if (__builtin_mul_overflow(block, static_cast<std::uint64_t>(channel->block_size), &offset) ||
          !d->inside(offset, length))
        return EXT2_ET_SHORT_WRITE;
      return guarded([&] { d->write(offset, {static_cast<const std::byte*>(data), length}); });
    }

    static errcode_t read(io_channel channel, unsigned long block, int count, void* data) {
      return read64(channel, block, count, data);
    }
    static errcode_t write(io_channel channel, unsigned long block, int count, const void* data) {
      return write64(channel, block, count, data);
    }
    static errcode_t write_byte(io_channel channel, unsigned long offset, int count, const void* data) {
      Device* d = device(channel);
      if (d->writable == nullptr)
        return EROFS;
      if (count < 0 || !d->inside(offset, static_cast<std::uint64_t>(count)))
        return EXT2_ET_SHORT_WRITE;
      return guarded([&] { d->write(offset, {static_cast<const std::byte*>(data), static_cast<std::size_t>(count)}); });
    }
    static errcode_t flush(io_channel channel) {
      return guarded([&] { device(channel)->flush(); });
    }
    static errcode_t set_option(io_channel, const char*, const char*) { return EXT2_ET_INVALID_ARGUMENT; }

    static io_manager manager() {
      static const std::unique_ptr<struct_io_manager> instance = [] {
        auto m = std::make_unique<struct_io_manager>();
        m->magic = EXT2_ET_MAGIC_IO_MANAGER;
        m->name = "kvmport image";
        m->open = open;
        m->close = close;
        m->set_blksize = set_blksize;
        m->read_blk = read;
        m->write_blk = write;
        m->flush = flush;
        m->write_byte = write_byte;
        m->set_option = set_option;
        m->read_blk64 = read64;
        m->write_blk64 = write64;
        return m;
      }();
      return instance.get();
    }
  };
};

std::string ext2_error(errcode_t error) {
  static const bool registered = (::initialize_ext2_error_table(), true);
  return registered ? ::error_message(error) : "";
}

Ext2Handle::Ext2Handle(std::unique_ptr<Device> device) : device_(std::move(device)) {
  if (device_->range.length < 2048 || device_->range.end() > device_->image->size())
    throw Error("IMAGE_CORRUPT", "a filesystem's range lies outside of its disk");
  char name[32];
  std::snprintf(name, sizeof name, "%p", static_cast<void*>(device_.get()));
  int flags = EXT2_FLAG_64BITS;
  if (device_->writable != nullptr)
    flags |= EXT2_FLAG_RW;
  if (errcode_t error = ::ext2fs_open(name, flags, 0, 0, Ext2Io::Calls<Device>::manager(), &fs_); error != 0)
    throw Error("GUEST_READ_FAILED", "an ext filesystem could not be opened", ext2_error(error));
  // A superblock may claim any size; tables are sized by it.
  const std::uint64_t claimed = ext2fs_blocks_count(fs_->super);
  if (claimed > device_->range.length / fs_->blocksize) {
    ::ext2fs_free(fs_);
    fs_ = nullptr;
    throw Error("IMAGE_CORRUPT", "an ext filesystem claims more blocks than its partition has",
                std::to_string(claimed) + " blocks of " + std::to_string(device_->range.length) + " bytes");
  }
}

Ext2Handle Ext2Handle::open(const Image& disk, Range range) {
  auto device = std::make_unique<Device>();
  device->image = &disk;
  device->range = range;
  return Ext2Handle(std::move(device));
}

Ext2Handle Ext2Handle::open_writable(WritableImage& disk, Range range) {
  auto device = std::make_unique<Device>();
  device->image = &disk;
  device->writable = &disk;
  device->range = range;
  return Ext2Handle(std::move(device));
}

Ext2Handle::Ext2Handle(Ext2Handle&& other) noexcept
    : device_(std::move(other.device_)), fs_(std::exchange(other.fs_, nullptr)) {}

Ext2Handle::~Ext2Handle() {
  if (fs_ != nullptr)
    ::ext2fs_free(fs_);
}

void Ext2Handle::limit_reads(std::uint64_t bytes) {
  device_->may_read = bytes;
}

void Ext2Handle::close() {
  if (fs_ == nullptr)
    return;
  if (errcode_t error = ::ext2fs_close_free(&fs_); error != 0)
    throw Error("GUEST_WRITE_FAILED", "an ext filesystem could not be closed", ext2_error(error));
}

ext2_ino_t Ext2Handle::find(const std::string& path) const {
  ext2_ino_t number = 0;
  return ::ext2fs_namei_follow(fs_, EXT2_ROOT_INO, EXT2_ROOT_INO, path.c_str(), &number) == 0 ? number : 0;
}

ext2_inode Ext2Handle::inode(ext2_ino_t number) const {
  ext2_inode inode{};
  return number != 0 && ::ext2fs_read_inode(fs_, number, &inode) == 0 ? inode : ext2_inode{};
}

std::vector<std::uint64_t> Ext2Handle::blocks(ext2_ino_t number, std::size_t most) const {
  std::vector<std::uint64_t> found;
  const ext2_inode node = inode(number);
  if (most == 0 || !LINUX_S_ISREG(node.i_mode))
    return found;
  found.reserve(most); // what is called from C must not throw
  const auto visit = [](ext2_filsys, blk64_t* block, e2_blkcnt_t, blk64_t, int, void* into) noexcept {
    auto& list = *static_cast<std::vector<std::uint64_t>*>(into);
    list.push_back(*block);
    return list.size() < list.capacity() ? 0 : BLOCK_ABORT;
  };
  ::ext2fs_block_iterate3(fs_, number, BLOCK_FLAG_DATA_ONLY | BLOCK_FLAG_READ_ONLY, nullptr, visit, &found);
  return found;
}

std::string Ext2Handle::content(ext2_ino_t number, std::uint64_t offset, std::size_t most) const {
  std::string text(most, '\0');
  unsigned got = 0;
  ext2_file_t file = nullptr;
  if (number == 0 || ::ext2fs_file_open(fs_, number, 0, &file) != 0)
    return {};
  if (::ext2fs_file_llseek(file, offset, EXT2_SEEK_SET, nullptr) != 0 ||
      ::ext2fs_file_read(file, text.data(), static_cast<unsigned>(most), &got) != 0)
    got = 0;
  ::ext2fs_file_close(file);
  text.resize(got);
  return text;
}

} // namespace kvmport
