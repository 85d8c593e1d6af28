// SPDX-License-Identifier: Apache-2.0
#include "libconvert/copy/image_channel.h"

#include <charconv>
#include <cstdlib>

namespace kvmport {
namespace {

constexpr std::string_view prefix = "kvmport-image-";

errcode_t channel_open(const char* name, int flags, io_channel* channel) {
  std::string_view text = name;
  std::uintptr_t address = 0;
  if (!text.starts_with(prefix) || (flags & IO_FLAG_RW) != 0)
    return EXT2_ET_UNIMPLEMENTED;
  text.remove_prefix(prefix.size());
  if (std::from_chars(text.data(), text.data() + text.size(), address, 16).ec != std::errc())
    return EXT2_ET_BAD_DEVICE_NAME;
  auto* io = static_cast<io_channel>(std::calloc(1, sizeof(struct_io_channel))); // the library's own kind of memory
  if (io == nullptr)
    return EXT2_ET_NO_MEMORY;
  io->name = ::strdup(name);
  if (io->name == nullptr) {
    std::free(io);
    return EXT2_ET_NO_MEMORY;
  }
  io->magic = EXT2_ET_MAGIC_IO_CHANNEL;
  io->manager = image_io_manager();
  io->block_size = 1024;
  io->refcount = 1;
  io->private_data = reinterpret_cast<void*>(address);
  *channel = io;
  return 0;
}

errcode_t channel_close(io_channel channel) {
  if (--channel->refcount > 0)
    return 0;
  std::free(channel->name);
  std::free(channel);
  return 0;
}

errcode_t channel_set_blksize(io_channel channel, int size) {
  channel->block_size = size;
  return 0;
}

/// `count` blocks, or -count bytes when it is negative.
errcode_t channel_read(io_channel channel, unsigned long long block, int count, void* data) {
  const auto& window = *static_cast<const ImageWindow*>(channel->private_data);
  const auto block_size = static_cast<std::uint64_t>(channel->block_size);
  const std::uint64_t length = count < 0 ? static_cast<std::uint64_t>(-static_cast<std::int64_t>(count))
                                         : static_cast<std::uint64_t>(count) * block_size;
  if (block > window.range.length / block_size || length > window.range.length - block * block_size)
    return EXT2_ET_SHORT_READ;
  try {
    window.image.read(window.range.offset + block * block_size, {static_cast<std::byte*>(data), length});
  } catch (const std::exception&) {
    return EXT2_ET_SHORT_READ;
  }
  return 0;
}

errcode_t channel_read_small(io_channel channel, unsigned long block, int count, void* data) {
  return channel_read(channel, block, count, data);
}

errcode_t refuse_write(io_channel, unsigned long, int, const void*) {
  return EXT2_ET_RO_FILSYS;
}

errcode_t refuse_write64(io_channel, unsigned long long, int, const void*) {
  return EXT2_ET_RO_FILSYS;
}

errcode_t channel_flush(io_channel) {
  return 0;
}

struct_io_manager make_manager() {
  struct_io_manager manager{};
  manager.magic = EXT2_ET_MAGIC_IO_MANAGER;
  manager.name = "kvmport image";
  manager.open = channel_open;
  manager.close = channel_close;
  manager.set_blksize = channel_set_blksize;
  manager.read_blk = channel_read_small;
  manager.read_blk64 = channel_read;
  manager.write_blk = refuse_write;
  manager.write_blk64 = refuse_write64;
  manager.flush = channel_flush;
  return manager;
}

} // namespace

io_manager image_io_manager() {
  static struct_io_manager manager = make_manager(); // never changed; the library wants a pointer that is not const
  return &manager;
}

std::string image_io_name(const ImageWindow& window) {
  char digits[2 * sizeof(std::uintptr_t)];
  const auto end = std::to_chars(digits, digits + sizeof digits, reinterpret_cast<std::uintptr_t>(&window), 16).ptr;
  return std::string(prefix) + std::string(digits, end);
}

} // namespace kvmport
