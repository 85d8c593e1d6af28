// SPDX-License-Identifier: Apache-2.0
// What the frames of the P2V protocol carry (kvm-p2v-protocol(7)): values on this side, bytes on the wire. Reading
// trusts nothing: every count, length and name is checked, and what is wrong is Error PROTOCOL_ERROR. The "agent" is
// the machine that is captured, the "receiver" the server.
#pragma once

#include "libconvert/copy/journal.h"
#include "libconvert/machine/machine.h"

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace kvmport {

inline constexpr unsigned p2v_protocol_version = 1;
/// Bytes of a disk that travel together, are recorded together and are sent again together.
inline constexpr std::uint64_t p2v_chunk_size = 2U << 20;
/// Most disks of a machine, and most bytes of a disk (2^62: every offset stays a positive off_t).
inline constexpr std::size_t most_p2v_disks = 256;
inline constexpr std::uint64_t largest_p2v_disk = std::uint64_t{1} << 62;

/// The agent's first frame on each connection.
struct HelloMessage {
  unsigned protocol = p2v_protocol_version;
  std::string program; ///< "kvm-p2v 0.1.0"
  std::string name;    ///< of the machine: a safe_name()
  bool control = true; ///< the first connection of a session; the others carry chunks
  std::string token;   ///< other connections: what the control connection was told
};

/// The receiver's answer to it.
struct WelcomeMessage {
  unsigned protocol = p2v_protocol_version;
  std::string program, token;
};

/// One disk of the machine, in the order of Machine::disks.
struct ManifestDisk {
  std::uint64_t size = 0;         ///< bytes, a multiple of 512
  std::uint64_t used = 0;         ///< bytes that the agent means to send
  std::vector<std::string> notes; ///< what was found on it and why it is or isn't copied whole
};

/// What the user asked for, as far as the receiver has to do it.
struct CaptureWishes {
  bool convert = true; ///< false: keep disks and description as they are
  bool boot = true;    ///< prove the result
  bool force = false;  ///< results of this name may be replaced
  std::string format = "qcow2";
  std::string compress = "none";
  std::string until = "login";
  unsigned timeout = 300; ///< seconds, of the proof
};

struct ManifestMessage {
  std::string run; ///< names this start of the agent, so that a result can be asked for again
  std::string name;
  Machine machine; ///< paths of disks are empty on the wire
  std::vector<ManifestDisk> disks;
  CaptureWishes wishes;

  /// Which machine and disks these are: the same after a restart of the agent, another for another machine.
  std::string identity() const;
};

/// Chunks of a disk that the receiver holds.
struct HaveMessage {
  std::uint32_t disk = 0;
  std::vector<ChunkRun> runs;
};
/// As many runs as fit into one frame.
inline constexpr std::size_t most_have_runs = 32000;

/// A piece of a chunk whose bytes travel.
struct ChunkExtent {
  std::uint32_t offset = 0, length = 0; ///< inside the chunk; multiples of 512
};

/// One chunk of a disk: its extents' bytes; all others are zeros, or in a patch what the receiver has there.
struct ChunkMessage {
  std::uint32_t disk = 0;
  std::uint64_t index = 0;
  Digest digest; ///< of the whole chunk
  bool compressed = false;
  bool patch = false;
  std::vector<ChunkExtent> extents;
  std::uint32_t plain = 0; ///< bytes of all extents
  ByteSpan data;           ///< borrowed; zstd when compressed
};

struct AckMessage {
  std::uint32_t disk = 0;
  std::uint64_t index = 0;
  bool stored = true; ///< false: a patch does not fit what is there; the chunk is to be sent whole
};

/// All was sent.
struct DoneMessage {
  struct Disk {
    Digest digest;                 ///< disk_digest() of all its chunks
    std::vector<Range> unreadable; ///< zeros stand for these bytes, which the source's disk did not give
  };
  std::vector<Disk> disks;
};

/// What DoneMessage and the receiver compare: the digest of the digests of all chunks, in order, 16 bytes each (low
/// half first, little-endian).
Digest disk_digest(const std::vector<Digest>& chunks);
/// The digest of a chunk of zeros.
Digest zero_digest(std::uint64_t length);

std::string encode(const HelloMessage& message);
std::string encode(const WelcomeMessage& message);
std::string encode(const ManifestMessage& message);
std::string encode(const DoneMessage& message);
std::string encode(const Error& error);
Bytes encode(const HaveMessage& message);
Bytes encode(const AckMessage& message);
/// All but the data.
Bytes encode_head(const ChunkMessage& message);

HelloMessage decode_hello(ByteSpan payload);
WelcomeMessage decode_welcome(ByteSpan payload);
ManifestMessage decode_manifest(ByteSpan payload);
DoneMessage decode_done(ByteSpan payload);
/// An error of the other side, its words cut to what fits a screen.
Error decode_error(ByteSpan payload);
HaveMessage decode_have(ByteSpan payload);
AckMessage decode_ack(ByteSpan payload);
/// Its data is borrowed from `payload`. Extents are sorted, don't overlap, lie within a chunk and add up to `plain`.
ChunkMessage decode_chunk(ByteSpan payload);

/// JSON text of an event, result or other answer; PROTOCOL_ERROR when it is none or isn't an object.
nlohmann::json decode_object(ByteSpan payload);

/// The extents of `chunk` that aren't zeros, in blocks of 4096 bytes.
std::vector<ChunkExtent> find_extents(ByteSpan chunk);

} // namespace kvmport
