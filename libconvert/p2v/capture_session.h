// SPDX-License-Identifier: Apache-2.0
// One session of a capture: from connecting to the receiver until it has delivered the machine, or until a connection
// is lost. The next session asks the receiver what it has, so nothing needs to be remembered between two. The steps are
// connect(), send() as often as there is something new, finish().
#pragma once

#include "libconvert/p2v/capture.h"
#include "libconvert/p2v/capture_plan.h"

#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <thread>

namespace kvmport {

class CaptureSession {
 public:
  /// All is borrowed.
  CaptureSession(const CaptureOptions& options, const ManifestMessage& manifest,
                 const std::vector<std::unique_ptr<CapturePlan>>& plans, const std::vector<CaptureDisk>& disks,
                 RateLimit& limit, EventSink& sink, const StopToken& stop);
  ~CaptureSession();

  /// Learns what the receiver has, or its result when it has delivered this very run already. Errors of all steps: as
  /// capture_machine().
  std::optional<nlohmann::json> connect(const OpenLink& open);
  /// Sends all that the receiver lacks, over all streams at once. `silent`: nothing is reported meanwhile.
  void send(bool silent);
  /// Says what was sent, sends what turns out to be something else there (at most `rounds` times in all), and returns
  /// what the receiver says in the end.
  nlohmann::json finish(unsigned rounds);
  bool connected() const { return connected_; }     ///< the receiver has answered
  bool got_through() const { return chunks_ != 0; } ///< a chunk was acknowledged
  void add_to(CaptureStats& stats) const;

 private:
  /// What a thread that sends works with.
  struct Desk {
    Bytes chunk, plain, packed;
  };

  void greet(const OpenLink& open);
  std::optional<nlohmann::json> wait_for_ready();
  void open_streams(const OpenLink& open);
  void watch_control();
  void serve(Connection& connection);
  bool next_chunk(std::size_t& disk, std::uint64_t& chunk);
  bool send_chunk(Connection& connection, Desk& desk, ChunkMessage message);
  void fail(std::exception_ptr error);
  void forward(const nlohmann::json& event) const;
  Frame next_frame();
  HelloMessage hello(bool control) const;

  const CaptureOptions& options_;
  const ManifestMessage& manifest_;
  const std::vector<std::unique_ptr<CapturePlan>>& plans_;
  const std::vector<CaptureDisk>& disks_;
  RateLimit& limit_;
  EventSink& sink_;
  const StopToken& stop_;

  std::unique_ptr<LinkConnection> control_;
  std::string token_;
  std::vector<std::unique_ptr<LinkConnection>> streams_; ///< carry chunks

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Frame> frames_; ///< of the control connection, not yet looked at
  std::exception_ptr error_;
  std::size_t disk_at_ = 0;
  std::uint64_t chunk_at_ = 0;

  bool connected_ = false, silent_ = false;
  std::atomic<std::uint64_t> done_{0}, payload_{0}, chunks_{0};
  std::uint64_t total_used_ = 0;
  std::jthread watcher_, pinger_; ///< the last members: they use the others
};

} // namespace kvmport
