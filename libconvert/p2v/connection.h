// SPDX-License-Identifier: Apache-2.0
// One connection of the P2V protocol: frames over a pair of descriptors (the pipes of an ssh, a socket). Nothing is
// read beyond the frame that was asked for, so that the descriptors can be handed to another process between two
// frames.
#pragma once

#include "base/bytes.h"
#include "base/events.h"
#include "base/file.h"

#include <atomic>
#include <chrono>
#include <initializer_list>
#include <mutex>
#include <optional>

namespace kvmport {

/// kvm-p2v-protocol(7), "Frames". The numbers are the protocol's.
enum class FrameType : std::uint16_t {
  hello = 1,
  welcome = 2,
  manifest = 3,
  have = 4,
  ready = 5,
  chunk = 6,
  ack = 7,
  done = 8,
  event = 9,
  result = 10,
  error = 11,
  ping = 12,
};

struct Frame {
  FrameType type = FrameType::ping;
  Bytes payload;
};

/// The longest payload that a frame of this type may have; 0: the type is unknown.
std::uint32_t most_payload(FrameType type);

/// Limits what goes over the wire to so many bytes a second, all connections of a run together. Safe from several
/// threads.
class RateLimit {
 public:
  explicit RateLimit(std::uint64_t bytes_per_second) : rate_(bytes_per_second) {} ///< 0: no limit
  /// When `bytes` more may be sent; they count as sent.
  std::chrono::steady_clock::time_point reserve(std::size_t bytes);

 private:
  const std::uint64_t rate_;
  std::mutex mutex_;
  std::chrono::steady_clock::time_point free_at_{};
};

/// send() is safe from several threads; receive() belongs to one. Errors of both: CONNECTION_LOST when the other side
/// is gone or was silent for too long, PROTOCOL_ERROR when it sends what it must not, INTERRUPTED when `stop` or
/// abort() says so.
class Connection {
 public:
  /// Both descriptors may be the same socket's. `stop` is borrowed.
  Connection(UniqueFd in, UniqueFd out, const StopToken& stop);
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  /// One frame whose payload is the `parts` one after the other.
  void send(FrameType type, std::initializer_list<ByteSpan> parts);
  void send(FrameType type, std::string_view payload) { send(type, {as_bytes(payload)}); }
  /// The next frame; nothing when the other side closed between two frames. Pings are swallowed, but count as a sign of
  /// life.
  std::optional<Frame> receive();

  /// Ends every call that waits, now and later, with INTERRUPTED. From any thread.
  void abort() noexcept { aborted_ = true; }
  /// Closes both descriptors, so that the other side sees the end. By the thread that receives.
  void close();
  /// Silence longer than this is CONNECTION_LOST.
  void set_patience(std::chrono::milliseconds patience) { patience_ = patience; }
  void set_rate_limit(RateLimit* limit) { limit_ = limit; } ///< borrowed

  std::uint64_t bytes_sent() const { return sent_; }
  int in() const { return in_.get(); }
  int out() const { return out_.get(); }

 private:
  bool fill(std::span<std::byte> into, bool may_end);
  void drain(ByteSpan bytes);
  void wait(int fd, short events, std::chrono::steady_clock::time_point until);
  void check() const;

  UniqueFd in_, out_;
  const StopToken& stop_;
  RateLimit* limit_ = nullptr;
  std::chrono::milliseconds patience_{60000};
  std::atomic<bool> aborted_{false};
  std::mutex send_mutex_;
  std::atomic<std::uint64_t> sent_{0};
};

} // namespace kvmport
