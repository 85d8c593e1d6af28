// SPDX-License-Identifier: Apache-2.0
// What one side of the P2V protocol says, made before it is heard.
#pragma once

#include "base/file.h"
#include "libconvert/p2v/connection.h"

#include <fcntl.h>
#include <sys/mman.h>

namespace kvmport::fuzz {

inline void add_frame(Bytes& stream, FrameType type, ByteSpan payload) {
  Bytes header(8);
  store_le<std::uint32_t>(header, 0, static_cast<std::uint32_t>(payload.size()));
  store_le<std::uint16_t>(header, 4, static_cast<std::uint16_t>(type));
  stream.insert(stream.end(), header.begin(), header.end());
  stream.insert(stream.end(), payload.begin(), payload.end());
}

/// To read `stream` from.
inline UniqueFd speaker(ByteSpan stream) {
  UniqueFd fd(::memfd_create("stream", MFD_CLOEXEC));
  write_exact(fd.get(), 0, stream, "stream");
  return fd;
}

/// To write answers to that nobody reads.
inline UniqueFd nobody() {
  return UniqueFd(::open("/dev/null", O_WRONLY | O_CLOEXEC));
}

} // namespace kvmport::fuzz
