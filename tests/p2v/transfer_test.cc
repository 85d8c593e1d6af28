// SPDX-License-Identifier: Apache-2.0
// Agent and receiver against each other: whole captures to a directory, and sessions that end anywhere.
#include "libconvert/p2v/capture.h"
#include "libconvert/p2v/capture_session.h"
#include "libconvert/p2v/receive.h"
#include "libconvert/p2v/spool.h"
#include "tests/support/tempdir.h"

#include <csignal>
#include <fmt/format.h>
#include <fstream>
#include <functional>
#include <future>
#include <gtest/gtest.h>
#include <random>
#include <sys/socket.h>
#include <thread>
#include <utility>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

using nlohmann::json;

constexpr std::uint64_t chunk = p2v_chunk_size;

/// A file whose chunks are data, half data, or nothing, and whose last chunk is short.
void make_disk(const fs::path& path, unsigned chunks, unsigned seed) {
  const UniqueFd fd = create_new(path);
  std::mt19937_64 random(seed);
  Bytes bytes(chunk);
  for (unsigned i = 0; i < chunks; i++) {
    for (std::size_t at = 0; at < bytes.size(); at += 8)
      store_le<std::uint64_t>(bytes, at, random());
    const std::size_t length = i % 3 == 0 ? chunk : i % 3 == 1 ? 12345 : 0;
    write_exact(fd.get(), i * chunk + (i % 3 == 1 ? 70000 : 0), ByteSpan(bytes).first(length), path.string());
  }
  write_exact(fd.get(), chunks * chunk, ByteSpan(bytes).first(1536), path.string());
}

/// Takes disks and says so.
json keep(const CapturedMachine& captured, EventSink&, const StopToken&) {
  for (std::size_t i = 0; i < captured.disks.size(); i++)
    fs::rename(captured.disks[i], captured.directory / fmt::format("{}-{}", captured.manifest.name, i));
  return {{"files", json::array()}, {"proven", false}, {"converted", false}};
}

/// Tells a test where the receiver is.
class StageSink final : public EventSink {
 public:
  void stage(std::string_view name, std::string_view) override {
    if (on_stage)
      on_stage(name);
  }
  void progress(std::string_view, std::uint64_t, std::uint64_t) override {}
  void message(Level, std::string_view, std::string_view) override {}
  std::function<void(std::string_view)> on_stage;
};

class Transfer : public testing::Test {
 protected:
  void SetUp() override {
    ::signal(SIGPIPE, SIG_IGN); // as every command does
    make_disk(dir / "a", 7, 1);
    make_disk(dir / "b", 2, 2);
    options.name = manifest.name = "m";
    options.streams = 3;
    options.wishes.convert = false;
    receive.directory = dir / "out";
    receive.deliver = keep;
    open();
  }
  void open() {
    disks.clear();
    plans.clear();
    manifest.disks.clear();
    manifest.machine.disks.resize(2);
    for (const char* name : {"a", "b"}) {
      OpenOptions raw;
      raw.format = "raw";
      disks.push_back({open_image(dir / name, raw), 0, {}});
      plans.push_back(std::make_unique<CapturePlan>(*disks.back().image, false));
      manifest.disks.push_back(plans.back()->manifest());
    }
    stats.used = manifest.disks[0].used + manifest.disks[1].used;
  }

  /// A connection to a receiver that runs as a thread; `cut_after`: the wire breaks after so many bytes to it.
  std::unique_ptr<LinkConnection> connect(std::uint64_t cut_after = UINT64_MAX) {
    auto [ours, wire] = socket_pair(SOCK_STREAM);
    auto [far, theirs] = socket_pair(SOCK_STREAM);
    wires.emplace_back([a = std::move(wire), b = std::move(far), cut_after] { relay(a.get(), b.get(), cut_after); });
    receivers.emplace_back([this, fd = std::move(theirs)]() mutable {
      UniqueFd out(::dup(fd.get()));
      try {
        const json result = receive_machine(std::move(fd), std::move(out), receive, sink, stop);
        const std::lock_guard lock(mutex);
        if (!result.is_null())
          results.push_back(result);
      } catch (const Error& error) {
        const std::lock_guard lock(mutex);
        errors.push_back(error.code());
      }
    });
    UniqueFd out(::dup(ours.get()));
    return std::make_unique<LinkConnection>(std::move(ours), std::move(out), stop);
  }
  static void relay(int a, int b, std::uint64_t cut_after) {
    std::jthread back([a, b] {
      std::array<char, 65536> buffer;
      for (ssize_t n = 0; (n = ::read(b, buffer.data(), buffer.size())) > 0;)
        if (::send(a, buffer.data(), static_cast<std::size_t>(n), MSG_NOSIGNAL) != n)
          break;
      ::shutdown(a, SHUT_RDWR);
    });
    std::array<char, 65536> buffer;
    for (ssize_t n = 0; (n = ::read(a, buffer.data(), std::min<std::uint64_t>(buffer.size(), cut_after))) > 0;) {
      if (::send(b, buffer.data(), static_cast<std::size_t>(n), MSG_NOSIGNAL) != n)
        break;
      cut_after -= static_cast<std::uint64_t>(n);
    }
    ::shutdown(b, SHUT_RDWR);
    ::shutdown(a, SHUT_RDWR);
  }
  /// One session; its error's code, or "" when the machine was delivered.
  std::string session(const OpenLink& open_link) {
    std::string code;
    {
      CaptureSession session(options, manifest, plans, disks, limit, sink, stop);
      try {
        if (!session.connect(open_link)) {
          session.send(false);
          session.finish(4);
        }
      } catch (const Error& error) {
        code = error.code();
      }
      session.add_to(stats);
    }
    receivers.clear(); // joins
    wires.clear();
    return code;
  }
  std::unique_ptr<LinkConnection> greet() {
    auto link = connect();
    link->connection().send(FrameType::hello, encode(HelloMessage{p2v_protocol_version, "another", "m", true, {}}));
    EXPECT_EQ(link->connection().receive().value().type, FrameType::welcome);
    return link;
  }
  /// An agent that only greets and says what its machine is.
  std::unique_ptr<LinkConnection> greet(const std::string& run) {
    auto link = greet();
    ManifestMessage other = manifest;
    other.run = run;
    link->connection().send(FrameType::manifest, encode(other));
    return link;
  }
  /// The next frame that is no event.
  static Frame next_frame(LinkConnection& link) {
    for (;;)
      if (Frame frame = link.connection().receive().value(); frame.type != FrameType::event)
        return frame;
  }
  void expect_same() const {
    for (int i = 0; i < 2; i++)
      EXPECT_EQ(sha256_of(dir / (i == 0 ? "a" : "b")), sha256_of(dir / "out" / fmt::format("m-{}", i)));
    EXPECT_FALSE(fs::exists(dir / "out" / Spool::directory_name("m")));
  }

  TempDir temporary;
  fs::path dir = temporary.path();
  CaptureOptions options;
  ReceiveOptions receive;
  ManifestMessage manifest{"run", "m", {}, {}, {}};
  std::vector<CaptureDisk> disks;
  std::vector<std::unique_ptr<CapturePlan>> plans;
  RateLimit limit{0};
  CaptureStats stats;
  StageSink sink;
  StopToken stop;
  std::mutex mutex;
  std::vector<json> results;
  std::vector<std::string> errors;
  std::vector<std::jthread> wires, receivers;
};

TEST_F(Transfer, DisksArriveAsTheyAre) {
  EXPECT_EQ(session([this] { return connect(); }), "");
  expect_same();
  EXPECT_EQ(results.size(), 1U);
  EXPECT_LE(stats.payload, stats.used);
  EXPECT_GT(stats.payload, 3 * chunk);
}

/// Wherever a connection ends, the next session goes on, and at most a chunk a stream is sent again.
TEST_F(Transfer, GoesOnAfterEveryCut) {
  options.compress = false;
  std::mt19937 random(5);
  unsigned sessions = 1;
  for (; sessions < 200; sessions++) {
    const std::uint64_t cut = sessions < 12 ? 100 + random() % (3 * chunk / 2) : UINT64_MAX;
    if (sessions % 3 == 0)
      open(); // the agent was killed, too
    const std::string code = session([&] { return connect(cut); });
    if (code.empty())
      break;
    ASSERT_EQ(code, "CONNECTION_LOST");
  }
  expect_same();
  EXPECT_GT(sessions, 2U);
  EXPECT_LE(stats.wire, stats.used + (sessions - 1) * options.streams * chunk + sessions * 20000);
}

TEST_F(Transfer, WhatChangedMeanwhileIsSentAgain) {
  EXPECT_EQ(session([this] { return connect(chunk * 3 / 2); }), "CONNECTION_LOST");
  {
    const UniqueFd fd = open_existing(dir / "a");
    write_exact(fd.get(), 100000, as_bytes("changed"), "a");
    write_exact(fd.get(), 5 * chunk, Bytes(4096, std::byte{9}), "a");
  }
  open();
  EXPECT_EQ(session([this] { return connect(); }), "");
  expect_same();
}

/// A pass of a live capture sends what it was told of, and the whole chunk where more was written by the time of
/// reading.
TEST_F(Transfer, OnlyWhatWasWrittenTravels) {
  options.compress = false;
  const std::uint64_t piece = 65536;
  {
    CaptureSession session(options, manifest, plans, disks, limit, sink, stop);
    ASSERT_FALSE(session.connect([this] { return connect(); }));
    session.send(false);
    CaptureStats first, all;
    session.add_to(first);
    const UniqueFd fd = open_existing(dir / "a");
    write_exact(fd.get(), piece + 5, as_bytes("told"), "a");
    write_exact(fd.get(), 7 * chunk, as_bytes("told"), "a");     // the short chunk at the end
    write_exact(fd.get(), 2 * chunk + 5, as_bytes("told"), "a"); // held nothing
    write_exact(fd.get(), 3 * chunk + 5, as_bytes("told"), "a");
    write_exact(fd.get(), 4 * chunk - 5, as_bytes("late"), "a");
    plans[0]->use({{piece, piece}, {2 * chunk, piece}, {3 * chunk, piece}, {7 * chunk, 1536}});
    session.send(true);
    session.add_to(all);
    EXPECT_EQ(all.payload - first.payload, 3 * piece + 1536 + chunk);
    EXPECT_FALSE(session.finish(1).is_null());
  }
  receivers.clear();
  expect_same();
}

/// What lies in the spool is not what its journal says: found by reading back, and sent again.
TEST_F(Transfer, DamageAtRestIsFoundAndMended) {
  std::size_t connections = 0;
  EXPECT_EQ(session([&] { return connect(connections++ == 0 ? UINT64_MAX : chunk * 2); }), "CONNECTION_LOST");
  {
    const UniqueFd fd = open_existing(dir / "out" / Spool::directory_name("m") / "sda.img");
    write_exact(fd.get(), 1000, as_bytes("rot"), "sda.img");
    write_exact(fd.get(), 2 * chunk + 5, as_bytes("rot"), "sda.img"); // where nothing should be
  }
  EXPECT_EQ(session([this] { return connect(); }), "");
  expect_same();
}

TEST_F(Transfer, AnotherMachineIsRefusedTheName) {
  EXPECT_EQ(session([this] { return connect(chunk); }), "CONNECTION_LOST");
  manifest.machine.disks[0].serial = "another";
  EXPECT_EQ(session([this] { return connect(); }), "NAME_TAKEN");
  manifest.machine.disks[0].serial = "";
  EXPECT_EQ(session([this] { return connect(); }), "");
  expect_same();
}

/// The old agent's machine was pulled off the wire: its connection says nothing any more, and nobody has noticed.
TEST_F(Transfer, ANewAgentTakesTheOldOnesPlace) {
  const auto old = greet(manifest.run);
  ASSERT_EQ(old->connection().receive().value().type, FrameType::ready);
  manifest.run = "of the new agent";
  EXPECT_EQ(session([this] { return connect(); }), "");
  expect_same();
  ASSERT_EQ(results.size(), 1U);
  EXPECT_EQ(results[0]["run"], manifest.run);
}

/// An agent comes back while its disks are read back: the same run gets its result, another one is served anew.
TEST_F(Transfer, AnAgentComesWhileDisksAreVerified) {
  DoneMessage done; // all disks hold zeros, as the receiver's do in the beginning
  for (const ManifestDisk& disk : manifest.disks) {
    std::vector<Digest> chunks(disk.size / chunk, zero_digest(chunk));
    chunks.push_back(zero_digest(disk.size % chunk));
    done.disks.push_back({disk_digest(chunks), {}});
  }
  for (const bool same : {false, true}) {
    SCOPED_TRACE(same);
    std::promise<std::unique_ptr<LinkConnection>> promised;
    sink.on_stage = [&, called = false](std::string_view name) mutable {
      if (name != "verify" || std::exchange(called, true))
        return;
      auto later = greet(same ? "run" : "another");
      greet(); // is welcomed only after that one was taken in
      promised.set_value(std::move(later));
    };
    const auto first = greet("run");
    EXPECT_EQ(next_frame(*first).type, FrameType::ready);
    first->connection().send(FrameType::done, encode(done));
    auto later = promised.get_future().get();
    EXPECT_EQ(next_frame(*later).type, same ? FrameType::result : FrameType::ready);
    later.reset();
    receivers.clear();
  }
}

/// What is delivered is the machine as the first run sent it: another run must not take it for its own.
TEST_F(Transfer, AnotherRunWaitsForADelivery) {
  receive.deliver = [&](const CapturedMachine& captured, EventSink& events, const StopToken& token) {
    const auto other = greet("another");
    EXPECT_EQ(decode_error(next_frame(*other).payload).code(), "OUTPUT_BUSY");
    return keep(captured, events, token);
  };
  EXPECT_EQ(session([this] { return connect(); }), "");
  expect_same();
}

TEST_F(Transfer, AResultIsToldAgainToItsRunOnly) {
  EXPECT_EQ(session([this] { return connect(); }), "");
  EXPECT_EQ(session([this] { return connect(); }), "");
  EXPECT_EQ(results.size(), 2U);
  manifest.run = "another";
  EXPECT_EQ(session([this] { return connect(); }), "FILE_EXISTS");
}

TEST_F(Transfer, AnErrorOfTheReceiverReachesTheAgent) {
  receive.deliver = [](const CapturedMachine&, EventSink&, const StopToken&) -> json {
    throw Error("GUEST_NOT_FOUND", "no system in it");
  };
  EXPECT_EQ(session([this] { return connect(); }), "GUEST_NOT_FOUND");
  receive.deliver = keep; // all is still there
  const std::uint64_t sent = stats.payload;
  EXPECT_EQ(session([this] { return connect(); }), "");
  EXPECT_EQ(stats.payload, sent);
  expect_same();
}

/// What a hostile agent may say instead of what it should, after its greeting.
struct Lie {
  const char* name;
  FrameType type;
  std::string payload;
  const char* code;
};

class Lies : public testing::TestWithParam<Lie> {};

TEST_P(Lies, AreRefused) {
  ::signal(SIGPIPE, SIG_IGN);
  TempDir dir;
  auto [ours, theirs] = socket_pair(SOCK_STREAM);
  StopToken stop;
  NullSink sink;
  std::string code;
  std::jthread receiver([&, fd = std::move(theirs)]() mutable {
    UniqueFd out(::dup(fd.get()));
    try {
      receive_machine(std::move(fd), std::move(out), {dir.path() / "out", keep}, sink, stop);
    } catch (const Error& error) {
      code = error.code();
    }
  });
  {
    UniqueFd ours_out(::dup(ours.get()));
    LinkConnection link(std::move(ours), std::move(ours_out), stop);
    link.connection().send(GetParam().type, GetParam().payload);
    const auto answer = link.connection().receive();
    ASSERT_TRUE(answer);
    if (answer->type == FrameType::error)
      EXPECT_EQ(decode_error(answer->payload).code(), GetParam().code);
    else // it goes without a word after its greeting
      EXPECT_EQ(answer->type, FrameType::welcome);
  }
  receiver.join();
  EXPECT_EQ(code, GetParam().code);
  EXPECT_FALSE(fs::exists(dir.path() / "out" / "x.xml"));
  for (const auto& entry : fs::recursive_directory_iterator(dir.path()))
    EXPECT_EQ(entry.path().string().find("evil"), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(
    All, Lies,
    testing::Values(Lie{"NoGreeting", FrameType::manifest, "{}", "PROTOCOL_ERROR"},
                    Lie{"NotJson", FrameType::hello, "hello", "PROTOCOL_ERROR"},
                    Lie{"Version", FrameType::hello, R"({"protocol":2,"program":"future"})", "PROTOCOL_VERSION"},
                    Lie{"PathAsName", FrameType::hello,
                        R"({"protocol":1,"program":"x","name":"../evil","role":"control"})", "PROTOCOL_ERROR"},
                    Lie{"DataFirst", FrameType::hello,
                        R"({"protocol":1,"program":"x","name":"x","role":"data","token":""})", "CONNECTION_LOST"},
                    Lie{"NoManifest", FrameType::hello, R"({"protocol":1,"program":"x","name":"x","role":"control"})",
                        "PROTOCOL_ERROR"}),
    [](const auto& param) { return param.param.name; });

/// Chunks that a disk can't take: each is refused before anything is written.
TEST_F(Transfer, SpoolRefusesWrongChunks) {
  SpooledDisk disk(dir / "spooled", 3 * chunk + 512, "id");
  Bytes scratch, data(512, std::byte{1});
  ChunkMessage m;
  m.extents = {{0, 512}};
  m.plain = 512;
  m.data = data;
  m.digest = {1, 2};
  const auto code_of = [&] {
    try {
      disk.store(m, scratch);
    } catch (const Error& error) {
      return error.code();
    }
    return std::string();
  };
  EXPECT_EQ(code_of(), "DIGEST_MISMATCH");
  m.index = 4;
  EXPECT_EQ(code_of(), "PROTOCOL_ERROR");
  m.index = UINT64_MAX;
  EXPECT_EQ(code_of(), "PROTOCOL_ERROR");
  m.index = 3;
  m.extents = {{512, 512}}; // past the end of the disk
  EXPECT_EQ(code_of(), "PROTOCOL_ERROR");
  m.extents = {{0, 512}};
  m.compressed = true;
  EXPECT_EQ(code_of(), "PROTOCOL_ERROR");
  m.compressed = false;
  m.digest = digest_of(data);
  EXPECT_EQ(code_of(), "");
  EXPECT_EQ(disk.have().size(), 1U);
}

/// Chunk 0, whole; its data is `content`.
ChunkMessage whole_chunk(const Bytes& content) {
  ChunkMessage m;
  m.extents = {{0, chunk}};
  m.plain = chunk;
  m.data = content;
  m.digest = digest_of(content);
  return m;
}

/// What was read when a spool was opened again is what its journal promises from then on.
TEST_F(Transfer, SpoolForgetsWhatItDoesNotHold) {
  Bytes scratch, content(chunk, std::byte{1});
  ChunkMessage m = whole_chunk(content);
  ASSERT_TRUE(SpooledDisk(dir / "spooled", 2 * chunk, "id").store(m, scratch));
  write_exact(open_existing(dir / "spooled").get(), 100, as_bytes("lost in a crash"), "spooled");
  SpooledDisk(dir / "spooled", 2 * chunk, "id").settle();
  const SpooledDisk disk(dir / "spooled", 2 * chunk, "id");
  ASSERT_EQ(disk.have().size(), 1U);
  EXPECT_NE(disk.have()[0].digest, m.digest);
}

/// A patch is taken only when it gives the chunk with what is there.
TEST_F(Transfer, SpoolTakesPatchesThatFit) {
  SpooledDisk disk(dir / "spooled", 2 * chunk, "id");
  Bytes scratch, content(chunk, std::byte{1});
  ChunkMessage m = whole_chunk(content);
  ASSERT_TRUE(disk.store(m, scratch));
  std::fill_n(content.begin() + 4096, 512, std::byte{2});
  m.patch = true;
  m.extents = {{4096, 512}};
  m.plain = 512;
  m.data = ByteSpan(content).subspan(4096, 512);
  EXPECT_FALSE(disk.store(m, scratch)); // its digest is the old content's
  m.digest = digest_of(content);
  m.index = 1; // where the rest is something else
  EXPECT_FALSE(disk.store(m, scratch));
  m.index = 0;
  EXPECT_TRUE(disk.store(m, scratch));
  EXPECT_EQ(read_file(dir / "spooled", 4 * chunk), std::string(as_text(content)) + std::string(chunk, '\0'));
  ASSERT_EQ(disk.have().size(), 1U);
  EXPECT_EQ(disk.have()[0].digest, m.digest);
}

} // namespace
} // namespace kvmport::test
