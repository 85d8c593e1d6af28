// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/receive.h"

#include "libconvert/p2v/connection.h"
#include "libconvert/p2v/rendezvous.h"
#include "libconvert/p2v/spool.h"
#include "libconvert/p2v/wire_sink.h"

#include <condition_variable>
#include <fmt/format.h>
#include <memory>
#include <random>
#include <thread>
#include <utility>

namespace fs = std::filesystem;
using nlohmann::json;

namespace kvmport {
namespace {

constexpr const char* program_text = "kvm-p2v";
constexpr std::chrono::seconds handshake_patience{30}, control_patience{60};
/// Data comes when the agent has some; that it is still there the control connection tells.
constexpr std::chrono::hours data_patience{24 * 365};
constexpr std::chrono::seconds ping_interval{5}, settle_interval{2};
constexpr unsigned most_streams = 64, most_rounds = 4;

std::string random_token() {
  std::random_device random;
  return fmt::format("{:08x}{:08x}{:08x}{:08x}", random(), random(), random(), random());
}

/// The other side's greeting; `raw`: as it came.
HelloMessage read_hello(Connection& connection, std::string& raw) {
  const auto frame = connection.receive();
  if (!frame)
    throw Error("CONNECTION_LOST", "the other side went without a word");
  if (frame->type != FrameType::hello)
    throw Error("PROTOCOL_ERROR", "the other side does not begin with a greeting");
  raw = as_text(frame->payload);
  return decode_hello(frame->payload);
}

/// Welcomes an agent and reads what its machine is.
ManifestMessage exchange_manifest(Connection& connection, const std::string& token) {
  connection.send(FrameType::welcome, encode(WelcomeMessage{p2v_protocol_version, program_text, token}));
  const auto frame = connection.receive();
  if (!frame || frame->type != FrameType::manifest)
    throw Error("PROTOCOL_ERROR", "a description of the machine was expected");
  return decode_manifest(frame->payload);
}

/// An error that the agent is told, wherever it came from.
void tell(Connection& connection, const Error& error) {
  try {
    connection.send(FrameType::error, encode(error));
  } catch (const Error&) { // it is gone
  }
}

/// The connections of one agent that carry chunks; a thread each.
class DataStreams {
 public:
  DataStreams(Spool& spool, const StopToken& stop) : spool_(spool), stop_(stop) {}
  ~DataStreams() { finish(); }

  void add(HandedConnection handed) {
    const std::lock_guard lock(mutex_);
    if (closed_ || streams_.size() >= most_streams)
      return; // its descriptors close: the agent sees that
    auto stream = std::make_unique<Stream>(std::move(handed), stop_);
    stream->thread = std::jthread([this, s = stream.get()] { serve(*s); });
    streams_.push_back(std::move(stream));
  }
  void finish() {
    std::vector<std::unique_ptr<Stream>> streams;
    {
      const std::lock_guard lock(mutex_);
      closed_ = true;
      streams.swap(streams_);
    }
    for (auto& stream : streams)
      stream->connection.abort();
    streams.clear(); // joins
  }

 private:
  struct Stream {
    Stream(HandedConnection handed, const StopToken& stop)
        : connection(std::move(handed.in), std::move(handed.out), stop), waiting(std::move(handed.waiting)) {}
    Connection connection;
    UniqueFd waiting;
    std::jthread thread;
  };

  void serve(Stream& stream) const {
    Connection& connection = stream.connection;
    connection.set_patience(data_patience);
    try {
      Bytes scratch;
      connection.send(FrameType::welcome, encode(WelcomeMessage{p2v_protocol_version, program_text, {}}));
      while (const auto frame = connection.receive()) {
        if (frame->type != FrameType::chunk)
          throw Error("PROTOCOL_ERROR", "a connection for chunks brings something else");
        const ChunkMessage chunk = decode_chunk(frame->payload);
        if (chunk.disk >= spool_.size())
          throw Error("PROTOCOL_ERROR", fmt::format("there is no disk {}", chunk.disk));
        const bool stored = spool_.disk(chunk.disk).store(chunk, scratch);
        connection.send(FrameType::ack, {encode(AckMessage{chunk.disk, chunk.index, stored})});
      }
    } catch (const Error& error) {
      tell(connection, error);
    } catch (const std::exception& error) {
      tell(connection, Error("INTERNAL", error.what()));
    }
    connection.close();
    stream.waiting.reset();
  }

  Spool& spool_;
  const StopToken& stop_;
  std::mutex mutex_;
  bool closed_ = false;
  std::vector<std::unique_ptr<Stream>> streams_;
};

/// The receiver that has the spool.
class Leader {
 public:
  Leader(const ReceiveOptions& options, EventSink& log, const StopToken& stop)
      : options_(options), log_(log), stop_(stop), token_(random_token()) {}

  json run(std::shared_ptr<Connection> control, ManifestMessage manifest);
  const std::string& token() const { return token_; }

 private:
  /// An agent on its control connection.
  struct Agent {
    std::shared_ptr<Connection> control;
    ManifestMessage manifest;
    UniqueFd waiting; ///< of the process that the connection came from, if it is not ours
  };

  void accept_others();
  void accept_control(HandedConnection handed);
  void keep_alive(const std::stop_token& done);
  bool transfer();
  bool begin_delivery();
  void send_have(Connection& control);
  bool check(Connection& control, const DoneMessage& done);
  json deliver();
  json serve();
  bool next_agent();

  const ReceiveOptions& options_;
  EventSink& log_;
  const StopToken& stop_;
  const std::string token_;
  std::string identity_; ///< of the machine, whichever of its agents is there
  Agent agent_;          ///< the present one
  std::unique_ptr<Spool> spool_;
  std::unique_ptr<Rendezvous> rendezvous_;
  ControlSlot slot_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::unique_ptr<DataStreams> streams_; ///< while chunks come
  std::optional<Agent> successor_;       ///< a new one for a transfer that is about to end
  bool delivering_ = false;
  std::mutex settle_mutex_;
  bool may_settle_ = true; ///< chunks may come
  DoneMessage done_;
};

void Leader::accept_control(HandedConnection handed) {
  auto control = std::make_shared<Connection>(std::move(handed.in), std::move(handed.out), stop_);
  control->set_patience(handshake_patience);
  try {
    ManifestMessage manifest = exchange_manifest(*control, token_);
    if (manifest.identity() != identity_)
      throw Error("NAME_TAKEN", "another machine is being captured under the name " + manifest.name, {},
                  "give another --name");
    control->set_patience(control_patience);
    const std::lock_guard lock(mutex_);
    if (delivering_ && manifest.run != agent_.manifest.run)
      throw Error("OUTPUT_BUSY", "an earlier capture of " + manifest.name + " is being delivered", {},
                  "wait until it is done");
    if (delivering_) {
      slot_.set(control);
      agent_.waiting = std::move(handed.waiting);
      return;
    }
    // The old connection is dead and does not know it yet.
    successor_ = Agent{std::move(control), std::move(manifest), std::move(handed.waiting)};
    if (const auto old = slot_.get())
      old->abort();
    changed_.notify_all();
  } catch (const Error& error) {
    tell(*control, error);
  }
}

/// Runs as long as this receiver leads.
void Leader::accept_others() {
  auto handed = rendezvous_->accept();
  if (!handed)
    return;
  try {
    const HelloMessage hello = decode_hello(as_bytes(handed->hello));
    if (hello.control)
      return accept_control(std::move(*handed));
    const std::lock_guard lock(mutex_);
    if (hello.token == token_ && streams_)
      streams_->add(std::move(*handed));
  } catch (const Error& error) {
    log_.message(EventSink::Level::warning, error.code(), error.what());
  }
}

void Leader::keep_alive(const std::stop_token& done) {
  auto next_ping = std::chrono::steady_clock::now(), next_settle = next_ping + settle_interval;
  std::mutex mutex;
  std::unique_lock lock(mutex);
  std::condition_variable_any sleep;
  while (!sleep.wait_for(lock, done, std::chrono::milliseconds(500), [&done] { return done.stop_requested(); })) {
    const auto now = std::chrono::steady_clock::now();
    if (now >= next_ping) {
      std::shared_ptr<Connection> waiting;
      {
        const std::lock_guard agents(mutex_);
        waiting = successor_ ? successor_->control : nullptr;
      }
      try_send(waiting, FrameType::ping, {});
      try_send(slot_.get(), FrameType::ping, {});
      next_ping = now + ping_interval;
    }
    if (now >= next_settle) {
      try {
        const std::lock_guard settling(settle_mutex_);
        if (may_settle_)
          spool_->settle();
      } catch (const Error& error) {
        log_.message(EventSink::Level::warning, error.code(), error.what());
      }
      next_settle = std::chrono::steady_clock::now() + settle_interval;
    }
  }
}

void Leader::send_have(Connection& control) {
  for (std::size_t i = 0; i < spool_->size(); i++) {
    HaveMessage have{static_cast<std::uint32_t>(i), {}};
    for (const ChunkRun& run : spool_->disk(i).have()) {
      have.runs.push_back(run);
      if (have.runs.size() == most_have_runs) {
        control.send(FrameType::have, {encode(have)});
        have.runs.clear();
      }
    }
    if (!have.runs.empty())
      control.send(FrameType::have, {encode(have)});
  }
  control.send(FrameType::ready, "{}");
}

/// Compares what is here with what the agent has.
bool Leader::check(Connection& control, const DoneMessage& done) {
  if (done.disks.size() != spool_->size())
    throw Error("PROTOCOL_ERROR", "the other side finished another number of disks");
  WireSink sink(slot_, log_);
  sink.stage("verify", "reading back what arrived");
  bool good = true;
  for (std::size_t i = 0; i < spool_->size(); i++) {
    good = spool_->disk(i).verify(sink, stop_) && good;
    good = spool_->disk(i).digest() == done.disks[i].digest && good;
  }
  if (!good)
    send_have(control);
  return good;
}

/// Serves the present agent until all is here; false when its connection was lost.
bool Leader::transfer() {
  const std::shared_ptr<Connection> agent = agent_.control;
  Connection& control = *agent;
  {
    const std::lock_guard lock(mutex_);
    streams_ = std::make_unique<DataStreams>(*spool_, stop_);
  }
  const auto end_streams = [this] {
    std::unique_ptr<DataStreams> streams;
    {
      const std::lock_guard lock(mutex_);
      streams.swap(streams_);
    }
  };
  try {
    send_have(control);
    for (unsigned round = 0; round < most_rounds; round++) {
      const auto frame = control.receive();
      if (!frame)
        throw Error("CONNECTION_LOST", "the agent is gone");
      if (frame->type == FrameType::error)
        throw decode_error(frame->payload).within("the agent");
      if (frame->type != FrameType::done)
        throw Error("PROTOCOL_ERROR", "an unexpected message of the agent");
      done_ = decode_done(frame->payload);
      if (check(control, done_)) {
        end_streams();
        return true;
      }
    }
    throw Error("VERIFY_FAILED", "the disks are still not what the source has, after several rounds", {},
                "is the source being written to? Test the memory of both machines");
  } catch (const Error& error) {
    end_streams();
    if ((error.code() == "CONNECTION_LOST" || error.code() == "INTERRUPTED") && !stop_.requested()) {
      log_.message(EventSink::Level::warning, error.code(), error.what());
      return false;
    }
    throw;
  }
}

/// The agent comes back before we have noticed that it was gone, or not to us.
bool Leader::next_agent() {
  std::unique_lock lock(mutex_);
  if (!changed_.wait_for(lock, options_.grace, [this] { return successor_.has_value(); }))
    return false;
  agent_ = std::move(*successor_);
  successor_.reset();
  slot_.set(agent_.control);
  return true;
}

/// False when another run took the agent's place while its disks were read back. The same one, come back, only listens.
bool Leader::begin_delivery() {
  const std::lock_guard lock(mutex_);
  if (successor_ && successor_->manifest.run != agent_.manifest.run)
    return false;
  if (successor_) {
    slot_.set(successor_->control);
    agent_.waiting = std::move(successor_->waiting);
    successor_.reset();
  }
  delivering_ = true;
  return true;
}

json Leader::deliver() {
  {
    const std::lock_guard lock(settle_mutex_);
    may_settle_ = false;
    spool_->settle();
  }
  const ManifestMessage& manifest = agent_.manifest;
  CapturedMachine captured{manifest, {}, {}, options_.directory, spool_->directory()};
  for (std::size_t i = 0; i < spool_->size(); i++) {
    captured.disks.push_back(spool_->disk(i).path());
    captured.unreadable.push_back(done_.disks[i].unreadable);
  }
  WireSink sink(slot_, log_);
  json result = options_.deliver(captured, sink, stop_);
  result["run"] = manifest.run;
  write_file_durably(options_.directory / capture_report_name(manifest.name),
                     result.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
  spool_->remove();
  try_send(slot_.get(), FrameType::result, result.dump(-1, ' ', false, json::error_handler_t::replace));
  return result;
}

/// One agent after the other, until there is one whose machine is all here.
json Leader::serve() {
  do {
    if (transfer() && begin_delivery())
      return deliver();
  } while (next_agent());
  throw Error("CONNECTION_LOST", "the agent is gone", {},
              "what arrived is kept in " + spool_->directory().string() + ": run the capture again");
}

json Leader::run(std::shared_ptr<Connection> control, ManifestMessage manifest) {
  slot_.set(control);
  try {
    identity_ = manifest.identity();
    control->set_patience(control_patience);
    agent_ = {std::move(control), std::move(manifest), {}};
    spool_ = std::make_unique<Spool>(options_.directory, agent_.manifest);
    rendezvous_ = std::make_unique<Rendezvous>(spool_->directory());
    const std::jthread others([this](const std::stop_token& done) {
      const std::stop_callback wake(done, [this] { rendezvous_->stop(); });
      while (!done.stop_requested())
        accept_others();
    });
    const std::jthread alive([this](const std::stop_token& done) { keep_alive(done); });
    return serve();
  } catch (const Error& error) {
    tell(*slot_.get(), error);
    throw;
  }
}

/// The result of the very run that asks, when it ended while its connection was lost. Error FILE_EXISTS for another's.
std::optional<json> earlier_result(const ReceiveOptions& options, const ManifestMessage& manifest) {
  const fs::path file = options.directory / capture_report_name(manifest.name);
  if (!fs::exists(file))
    return std::nullopt;
  json result = json::parse(read_file(file), nullptr, false);
  if (result.is_object() && result.value("run", "") == manifest.run)
    return result;
  if (manifest.wishes.force)
    return std::nullopt;
  throw Error("FILE_EXISTS", "a capture of the name " + manifest.name + " is there already", file.string() + " exists",
              "give another --name, or use --force");
}

} // namespace

std::string capture_report_name(const std::string& machine) {
  return machine + ".capture.json";
}

json receive_machine(UniqueFd in, UniqueFd out, const ReceiveOptions& options, EventSink& log, const StopToken& stop) {
  auto connection = std::make_shared<Connection>(std::move(in), std::move(out), stop);
  connection->set_patience(handshake_patience);
  Leader leader(options, log, stop);
  ManifestMessage manifest;
  try {
    std::string raw;
    const HelloMessage hello = read_hello(*connection, raw);
    if (hello.protocol != p2v_protocol_version)
      throw Error("PROTOCOL_VERSION",
                  fmt::format("the other side speaks version {} of the protocol, this one {}", hello.protocol,
                              p2v_protocol_version),
                  hello.program, "install the same kvmport on both machines");
    if (hand_over(options.directory / Spool::directory_name(hello.name), connection->in(), connection->out(), raw))
      return nullptr;
    if (!hello.control)
      throw Error("CONNECTION_LOST", "no capture of " + hello.name + " is under way here");
    fs::create_directories(options.directory);
    manifest = exchange_manifest(*connection, leader.token());
    if (manifest.name != hello.name)
      throw Error("PROTOCOL_ERROR", "the machine changed its name between two messages");
    if (const auto result = earlier_result(options, manifest)) {
      connection->send(FrameType::result, result->dump());
      return *result;
    }
  } catch (const Error& error) {
    tell(*connection, error);
    throw;
  }
  return leader.run(std::move(connection), std::move(manifest));
}

} // namespace kvmport
