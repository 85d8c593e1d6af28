// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/capture_session.h"

#include <algorithm>
#include <fmt/format.h>
#include <optional>
#include <zstd.h>

namespace kvmport {

using nlohmann::json;

namespace {

constexpr std::chrono::seconds control_patience{60}, ack_patience{120}, ping_interval{5};
constexpr int zstd_level = 1;

/// The receiver's next frame, which must be of this type, or its error thrown; nothing when it is gone.
std::optional<Frame> receive_answer(Connection& connection, FrameType type, const char* otherwise) {
  auto frame = connection.receive();
  if (frame && frame->type == FrameType::error)
    throw decode_error(frame->payload);
  if (frame && frame->type != type)
    throw Error("PROTOCOL_ERROR", otherwise);
  return frame;
}

constexpr const char* no_welcome = "the receiver does not answer the greeting";

} // namespace

CaptureSession::CaptureSession(const CaptureOptions& options, const ManifestMessage& manifest,
                               const std::vector<std::unique_ptr<CapturePlan>>& plans,
                               const std::vector<CaptureDisk>& disks, RateLimit& limit, EventSink& sink,
                               const StopToken& stop)
    : options_(options), manifest_(manifest), plans_(plans), disks_(disks), limit_(limit), sink_(sink), stop_(stop) {}

CaptureSession::~CaptureSession() {
  for (auto& stream : streams_)
    stream->connection().abort();
  if (control_)
    control_->connection().abort();
}

void CaptureSession::add_to(CaptureStats& stats) const {
  stats.payload += payload_;
  stats.chunks += chunks_;
  if (control_)
    stats.wire += control_->connection().bytes_sent();
  for (const auto& stream : streams_)
    stats.wire += stream->connection().bytes_sent();
}

HelloMessage CaptureSession::hello(bool control) const {
  return {p2v_protocol_version, "kvm-p2v", manifest_.name, control, control ? std::string() : token_};
}

// --- the control connection ----------------------------------------------------------------------------------------

void CaptureSession::fail(std::exception_ptr error) {
  const std::lock_guard lock(mutex_);
  if (!error_)
    error_ = std::move(error);
  changed_.notify_all();
}

/// Puts what the receiver says where the session finds it.
void CaptureSession::watch_control() {
  try {
    while (auto frame = control_->connection().receive()) {
      if (frame->type == FrameType::event) {
        forward(decode_object(frame->payload));
        continue;
      }
      if (frame->type == FrameType::error)
        throw decode_error(frame->payload);
      const std::lock_guard lock(mutex_);
      frames_.push_back(std::move(*frame));
      changed_.notify_all();
    }
    throw Error("CONNECTION_LOST", "the receiver is gone");
  } catch (...) {
    fail(std::current_exception());
  }
}

void CaptureSession::forward(const json& event) const {
  const auto text = [&event](const char* key) {
    return event.contains(key) && event[key].is_string() ? event[key].get<std::string>() : std::string();
  };
  const auto number = [&event](const char* key) {
    return event.contains(key) && event[key].is_number_unsigned() ? event[key].get<std::uint64_t>() : 0;
  };
  const std::string kind = text("event");
  if (kind == "stage")
    sink_.stage(text("stage"), text("text"));
  else if (kind == "progress")
    sink_.progress(text("stage"), number("done"), number("total"));
  else if (kind == "message")
    sink_.message(text("level") == "warning" ? EventSink::Level::warning : EventSink::Level::info, text("code"),
                  text("text"));
}

/// The next frame of the control connection. What was said before it broke comes first.
Frame CaptureSession::next_frame() {
  std::unique_lock lock(mutex_);
  while (frames_.empty() && !error_) {
    stop_.check();
    changed_.wait_for(lock, std::chrono::milliseconds(100));
  }
  if (frames_.empty())
    std::rethrow_exception(error_);
  Frame frame = std::move(frames_.front());
  frames_.pop_front();
  return frame;
}

void CaptureSession::greet(const OpenLink& open) {
  control_ = open();
  Connection& connection = control_->connection();
  // A user who has to type a password is given time.
  connection.set_patience(options_.interactive ? std::chrono::seconds(300) : control_patience);
  try {
    connection.send(FrameType::hello, encode(hello(true)));
    const auto frame = receive_answer(connection, FrameType::welcome, no_welcome);
    if (!frame)
      throw Error("CONNECTION_LOST", "the receiver went without a word");
    const WelcomeMessage welcome = decode_welcome(frame->payload);
    if (welcome.protocol != p2v_protocol_version)
      throw Error("PROTOCOL_VERSION", fmt::format("the receiver speaks version {} of the protocol", welcome.protocol),
                  welcome.program, "install the same kvmport on both machines");
    token_ = welcome.token;
  } catch (const Error& error) {
    if (error.code() != "CONNECTION_LOST")
      throw;
    throw Error("CONNECTION_LOST", "no connection to the receiver", control_->complaints(),
                "try `ssh` by hand: the host key must be known and a key or agent must log in without a password; is "
                "kvm-p2v installed there?");
  }
  connected_ = true;
  connection.set_patience(control_patience);
  connection.send(FrameType::manifest, encode(manifest_));
  watcher_ = std::jthread([this] { watch_control(); });
  pinger_ = std::jthread([this](const std::stop_token& done) {
    std::mutex mutex;
    std::unique_lock lock(mutex);
    std::condition_variable_any sleep;
    while (!sleep.wait_for(lock, done, ping_interval, [&done] { return done.stop_requested(); }))
      try {
        control_->connection().send(FrameType::ping, {});
      } catch (...) {
        return fail(std::current_exception());
      }
  });
}

/// Learns what the receiver has. Returns its result when it has all and has delivered it already.
std::optional<json> CaptureSession::wait_for_ready() {
  bool first = true;
  for (;;) {
    const Frame frame = next_frame();
    switch (frame.type) {
    case FrameType::have:
    case FrameType::ready:
      if (first)
        for (const auto& plan : plans_)
          plan->receiver_has_nothing();
      first = false;
      if (frame.type == FrameType::ready)
        return std::nullopt;
      {
        const HaveMessage have = decode_have(frame.payload);
        if (have.disk >= plans_.size())
          throw Error("PROTOCOL_ERROR", "the receiver has a disk that is not ours");
        plans_[have.disk]->receiver_has(have.runs);
      }
      break;
    case FrameType::result:
      return decode_object(frame.payload);
    default:
      throw Error("PROTOCOL_ERROR", "an unexpected message of the receiver");
    }
  }
}

// --- chunks --------------------------------------------------------------------------------------------------------

/// All processes are started before any is waited for: the handshakes of ssh take their time.
void CaptureSession::open_streams(const OpenLink& open) {
  for (unsigned i = 0; i < options_.streams; i++) {
    streams_.push_back(open());
    streams_.back()->connection().set_patience(ack_patience);
    streams_.back()->connection().set_rate_limit(&limit_);
    streams_.back()->connection().send(FrameType::hello, encode(hello(false)));
  }
  for (auto& stream : streams_)
    if (!receive_answer(stream->connection(), FrameType::welcome, no_welcome))
      throw Error("CONNECTION_LOST", "one of several connections was refused", stream->complaints(),
                  "fewer --streams, or a larger MaxStartups in the server's sshd_config");
}

/// The next chunk that is not known to be the same on both sides. Those that are must cost next to nothing: a live
/// capture passes over all of them while the filesystems stand still.
bool CaptureSession::next_chunk(std::size_t& disk, std::uint64_t& chunk) {
  const std::lock_guard lock(mutex_);
  while (!error_ && disk_at_ < plans_.size()) {
    const CapturePlan& plan = *plans_[disk_at_];
    disk = disk_at_;
    chunk = chunk_at_++;
    if (chunk_at_ == plan.chunks()) {
      disk_at_++;
      chunk_at_ = 0;
    }
    if (!plan.agreed(chunk))
      return true;
    if (!silent_)
      done_ += plan.used_in(chunk);
  }
  return false;
}

void CaptureSession::serve(Connection& connection) {
  Desk desk;
  std::size_t disk = 0;
  std::uint64_t chunk = 0;
  while (next_chunk(disk, chunk)) {
    stop_.check();
    CapturePlan& plan = *plans_[disk];
    if (const auto digest = plan.read_if_needed(chunk, desk.chunk)) {
      ChunkMessage message;
      message.disk = static_cast<std::uint32_t>(disk);
      message.index = chunk;
      message.digest = *digest;
      message.extents = plan.changed(chunk);
      message.patch = !message.extents.empty();
      // What was written since these changes were taken makes a patch unfit.
      if (!message.patch || !send_chunk(connection, desk, message)) {
        message.extents = find_extents(desk.chunk);
        message.patch = false;
        if (!send_chunk(connection, desk, message))
          throw Error("PROTOCOL_ERROR", "the receiver takes a whole chunk for a patch");
      }
      plan.receiver_has(chunk, *digest);
      chunks_++;
    }
    if (silent_)
      continue;
    done_ += plan.used_in(chunk);
    sink_.progress("capture", done_, total_used_);
  }
}

/// Sends the message's extents of the chunk on the desk. False: they don't fit what the receiver has.
bool CaptureSession::send_chunk(Connection& connection, Desk& desk, ChunkMessage message) {
  const ByteSpan bytes(desk.chunk);
  Bytes& plain = desk.plain;
  plain.clear();
  for (const ChunkExtent& extent : message.extents) {
    const ByteSpan piece = bytes.subspan(extent.offset, extent.length);
    plain.insert(plain.end(), piece.begin(), piece.end());
  }
  message.plain = static_cast<std::uint32_t>(plain.size());
  message.data = plain;
  if (options_.compress && !plain.empty()) {
    desk.packed.resize(ZSTD_compressBound(plain.size()));
    const std::size_t n = ZSTD_compress(desk.packed.data(), desk.packed.size(), plain.data(), plain.size(), zstd_level);
    if (ZSTD_isError(n) == 0 && n < plain.size()) {
      message.compressed = true;
      message.data = ByteSpan(desk.packed).first(n);
    }
  }
  connection.send(FrameType::chunk, {encode_head(message), message.data});
  payload_ += plain.size();
  const auto frame = receive_answer(connection, FrameType::ack, "an unexpected message of the receiver");
  if (!frame)
    throw Error("CONNECTION_LOST", "a connection ended");
  const AckMessage ack = decode_ack(frame->payload);
  if (ack.disk != message.disk || ack.index != message.index)
    throw Error("PROTOCOL_ERROR", "the receiver acknowledges what was not sent");
  return ack.stored;
}

void CaptureSession::send(bool silent) {
  {
    const std::lock_guard lock(mutex_);
    disk_at_ = 0;
    chunk_at_ = 0;
  }
  silent_ = silent;
  done_ = 0;
  total_used_ = 0;
  for (const auto& plan : plans_)
    total_used_ += plan->manifest().used;
  std::vector<std::jthread> threads;
  for (auto& stream : streams_)
    threads.emplace_back([this, s = stream.get()] {
      try {
        serve(s->connection());
      } catch (...) {
        fail(std::current_exception());
        for (auto& other : streams_) // they may wait for what never comes
          other->connection().abort();
      }
    });
  threads.clear(); // joins
  const std::lock_guard lock(mutex_);
  if (error_)
    std::rethrow_exception(error_);
  if (!silent)
    sink_.progress("capture", done_, total_used_);
}

json CaptureSession::finish(unsigned rounds) {
  for (; rounds != 0; rounds--) {
    DoneMessage done;
    for (std::size_t i = 0; i < plans_.size(); i++)
      done.disks.push_back({plans_[i]->digest(), disks_[i].unreadable ? disks_[i].unreadable() : std::vector<Range>()});
    control_->connection().send(FrameType::done, encode(done));
    if (auto result = wait_for_ready())
      return *result;
    if (rounds > 1)
      send(false);
  }
  throw Error("VERIFY_FAILED", "the receiver has something else than this machine, although all was sent");
}

std::optional<json> CaptureSession::connect(const OpenLink& open) {
  greet(open);
  if (auto result = wait_for_ready())
    return result;
  open_streams(open);
  return std::nullopt;
}

} // namespace kvmport
