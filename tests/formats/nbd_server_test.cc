// SPDX-License-Identifier: Apache-2.0
// The clients are libnbd's and QEMU's own programs, and a bare socket for what no good client would say.
#include "formats/nbd_protocol.h"
#include "formats/nbd_server.h"
#include "formats/readers.h"
#include "tests/formats/fixtures.h"

#include <mutex>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <thread>

namespace kvmport::test {
namespace {

constexpr std::uint64_t no_cap = std::uint64_t{1} << 40;

class NbdServerTest : public testing::Test {
 protected:
  void serve(std::uint64_t size, std::uint64_t cap = no_cap) {
    make_pattern_file(dir.path() / "base.raw", size, 11);
    base = open_raw(SourceFile::open(dir.path() / "base.raw"), OpenContext{});
    overlay = std::make_unique<Overlay>(*base, dir.path(), cap);
    server = std::make_unique<NbdServer>(*overlay, dir.path() / "socket");
  }
  void save_overlay(const std::filesystem::path& path) const {
    write_file_durably(path, as_text(read_all(*overlay, 0, overlay->size())));
  }

  TempDir dir;
  std::unique_ptr<Image> base;
  std::unique_ptr<Overlay> overlay;
  std::unique_ptr<NbdServer> server;
};

/// A client that says what it is told.
class BareClient {
 public:
  explicit BareClient(const NbdServer& server) : fd_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    server.socket_path().string().copy(address.sun_path, sizeof address.sun_path - 1);
    if (::connect(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
      throw std::runtime_error("connect");
    receive(18);
  }
  template <std::unsigned_integral T> BareClient& add(T value) {
    out_.resize(out_.size() + sizeof(T));
    store_be<T>(out_, out_.size() - sizeof(T), value);
    return *this;
  }
  BareClient& add_bytes(std::size_t count) {
    out_.resize(out_.size() + count);
    return *this;
  }
  void send() {
    (void)!::send(fd_.get(), out_.data(), out_.size(), MSG_NOSIGNAL);
    out_.clear();
  }
  /// Exactly `count` bytes, fewer when the server closes.
  Bytes receive(std::size_t count) {
    Bytes in(count);
    const ssize_t n = ::recv(fd_.get(), in.data(), count, MSG_WAITALL);
    in.resize(n < 0 ? 0 : static_cast<std::size_t>(n));
    return in;
  }
  bool closed() { return receive(1).empty(); }
  /// Into transmission by EXPORT_NAME.
  void enter() {
    add(std::uint32_t{3}).add(nbd::option_magic).add(std::uint32_t{1}).add(std::uint32_t{0}).send();
    receive(10);
  }
  std::uint32_t request(std::uint16_t flags, std::uint16_t type, std::uint64_t offset, std::uint32_t length) {
    add(nbd::request_magic).add(flags).add(type).add(std::uint64_t{99}).add(offset).add(length).send();
    const Bytes reply = receive(16);
    return reply.size() == 16 ? load_be<std::uint32_t>(reply, 4) : ~0U;
  }

 private:
  UniqueFd fd_;
  Bytes out_;
};

TEST_F(NbdServerTest, LibnbdSeesTheExport) {
  serve(3 << 20);
  EXPECT_EQ(must_run({"nbdinfo", "--size", server->uri()}), "3145728\n");
  const std::string text = must_run({"nbdinfo", server->uri()});
  for (const char* expected : {"can_multi_conn: true", "can_trim: true", "can_zero: true", "can_flush: true",
                               "is_read_only: false", "block_size_maximum: 33554432"})
    EXPECT_NE(text.find(expected), std::string::npos) << expected << "\n" << text;
  EXPECT_NE(must_run({"nbdinfo", "--list", server->uri()}).find("export=\"\""), std::string::npos);
  struct stat st {};
  ASSERT_EQ(::stat(server->socket_path().c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777U, 0600U);
  EXPECT_TRUE(server->failure().empty()) << server->failure();
}

TEST_F(NbdServerTest, NbdcopyReadsAndWritesEveryByte) {
  serve((20 << 20) + 512);
  const auto out = dir.path() / "out.raw", in = dir.path() / "in.raw";
  must_run({"nbdcopy", server->uri(), out.string()});
  EXPECT_EQ(sha256_of(out), sha256_of(dir.path() / "base.raw"));
  EXPECT_GE(server->bytes_read(), (20U << 20) + 512U);
  make_pattern_file(in, (20 << 20) + 512, 12);
  const std::string before = sha256_of(dir.path() / "base.raw");
  must_run({"nbdcopy", in.string(), server->uri()});
  save_overlay(out);
  EXPECT_EQ(sha256_of(out), sha256_of(in));
  EXPECT_EQ(sha256_of(dir.path() / "base.raw"), before);
  EXPECT_GT(server->bytes_written(), 0U);
}

TEST_F(NbdServerTest, QemuWritesZerosTrimsAndCompares) {
  serve(8 << 20);
  std::mutex mutex;
  std::vector<Range> seen, seen_read;
  server->on_write([&](Range range) {
    const std::lock_guard lock(mutex);
    seen.push_back(range);
  });
  server->on_read([&](Range range) {
    const std::lock_guard lock(mutex);
    seen_read.push_back(range);
  });
  const std::string out =
      must_run({"qemu-io", "-f", "raw", "-c", "write -P 0x41 1000 5000", "-c", "write -z 2097152 65536", "-c",
                "discard 4194304 1048576", "-c", "flush", "-c", "read -P 0x41 1000 5000", "-c",
                "read -P 0 2097152 65536", "-c", "write -f -P 0x42 7340032 4096", server->uri()});
  EXPECT_EQ(out.find("fail"), std::string::npos) << out;
  save_overlay(dir.path() / "saved.raw");
  must_run({"qemu-img", "compare", "-f", "raw", "-F", "raw", server->uri(), (dir.path() / "saved.raw").string()});
  EXPECT_EQ(read_all(*overlay, 1000, 5000), Bytes(5000, std::byte{0x41}));
  EXPECT_TRUE(is_zero(read_all(*overlay, 2097152, 65536)));
  const std::lock_guard lock(mutex);
  EXPECT_NE(std::find(seen.begin(), seen.end(), Range{2097152, 65536}), seen.end());
  EXPECT_NE(std::find(seen_read.begin(), seen_read.end(), Range{2097152, 65536}), seen_read.end());
  EXPECT_EQ(std::find(seen_read.begin(), seen_read.end(), Range{7340032, 4096}), seen_read.end());
}

TEST_F(NbdServerTest, SwitchesToAnotherOverlayUnderAClient) {
  serve(1 << 20);
  Overlay above(*overlay, dir.path(), no_cap);
  BareClient client(*server);
  client.enter();
  overlay->write(0, as_bytes("below"));
  EXPECT_EQ(client.request(0, 0, 0, 5), 0U);
  EXPECT_EQ(as_text(client.receive(5)), "below");
  above.write(0, as_bytes("above"));
  server->switch_to(above);
  EXPECT_EQ(client.request(0, 0, 0, 5), 0U);
  EXPECT_EQ(as_text(client.receive(5)), "above");
  EXPECT_EQ(client.request(0, 4, 4096, 4096), 0U);
  EXPECT_EQ(overlay->dirty().size(), 1U) << "the layer below was written";
  const auto small_path = dir.path() / "small.raw";
  make_pattern_file(small_path, 4096, 1);
  const auto small = open_raw(SourceFile::open(small_path), OpenContext{});
  Overlay other(*small, dir.path(), no_cap);
  expect_error("SIZE_MISMATCH", [&] { server->switch_to(other); });
  server.reset(); // before the overlay that it serves
}

TEST_F(NbdServerTest, ErrorsReachTheClientByNumber) {
  serve(1 << 20, 8192);
  BareClient client(*server);
  client.enter();
  EXPECT_EQ(client.request(0, 0, (1 << 20) - 1, 2), nbd::err_invalid);        // read past the end
  EXPECT_EQ(client.request(0, 0, ~std::uint64_t{0}, 2), nbd::err_invalid);    // wraps
  EXPECT_EQ(client.request(0, 0, 0, nbd::max_payload + 1), nbd::err_invalid); // too long
  EXPECT_EQ(client.request(0, 6, 1 << 20, 4096), nbd::err_no_space);          // zeroes past the end
  EXPECT_EQ(client.request(0, 4, 1 << 20, 4096), nbd::err_invalid);           // trim past the end
  EXPECT_EQ(client.request(0, 77, 0, 0), nbd::err_invalid);                   // unknown command
  EXPECT_EQ(client.request(1 << 7, 3, 0, 0), nbd::err_invalid);               // unknown flag
  client.add(nbd::request_magic)
      .add(std::uint16_t{0})
      .add(std::uint16_t{1})
      .add(std::uint64_t{1})
      .add(std::uint64_t{0});
  client.add(std::uint32_t{65536}).add_bytes(65536).send(); // more than the overlay may hold
  const Bytes reply = client.receive(16);
  ASSERT_EQ(reply.size(), 16U);
  EXPECT_EQ(load_be<std::uint32_t>(reply, 4), nbd::err_no_space);
  EXPECT_NE(server->failure().find("OVERLAY_FULL"), std::string::npos) << server->failure();
  EXPECT_EQ(client.request(0, 3, 0, 0), 0U) << "the connection must survive all that";
  EXPECT_EQ(client.request(0, 0, 0, 0), 0U);
}

TEST_F(NbdServerTest, ClosesOnClientsThatBreakTheProtocol) {
  serve(1 << 20);
  { // unknown handshake flags
    BareClient client(*server);
    client.add(std::uint32_t{0x80}).send();
    EXPECT_TRUE(client.closed());
  }
  { // wrong option magic
    BareClient client(*server);
    client.add(std::uint32_t{3}).add(std::uint64_t{1234}).add(std::uint32_t{1}).add(std::uint32_t{0}).send();
    EXPECT_TRUE(client.closed());
  }
  { // an option of 4 GiB
    BareClient client(*server);
    client.add(std::uint32_t{3}).add(nbd::option_magic).add(std::uint32_t{7}).add(~std::uint32_t{0}).send();
    EXPECT_TRUE(client.closed());
  }
  { // another export
    BareClient client(*server);
    client.add(std::uint32_t{3})
        .add(nbd::option_magic)
        .add(std::uint32_t{1})
        .add(std::uint32_t{1})
        .add(std::uint8_t{'x'});
    client.send();
    EXPECT_TRUE(client.closed());
  }
  { // wrong request magic
    BareClient client(*server);
    client.enter();
    client.add(std::uint64_t{0}).add(std::uint64_t{0}).add(std::uint64_t{0}).add(std::uint32_t{0}).send();
    EXPECT_TRUE(client.closed());
  }
  { // a write that is too long to be read and dropped
    BareClient client(*server);
    client.enter();
    client.add(nbd::request_magic).add(std::uint16_t{0}).add(std::uint16_t{1}).add(std::uint64_t{1});
    client.add(std::uint64_t{0}).add(~std::uint32_t{0}).send();
    EXPECT_TRUE(client.closed());
  }
  EXPECT_EQ(must_run({"nbdinfo", "--size", server->uri()}), "1048576\n");
}

TEST_F(NbdServerTest, OptionsThatItDoesNotKnowAreAnsweredAndGoIsChecked) {
  serve(1 << 20);
  BareClient client(*server);
  client.add(std::uint32_t{3});
  const auto option = [&](std::uint32_t number, const Bytes& data) {
    client.add(nbd::option_magic).add(number).add(static_cast<std::uint32_t>(data.size()));
    for (const std::byte b : data)
      client.add(static_cast<std::uint8_t>(b));
    client.send();
    const Bytes reply = client.receive(20);
    EXPECT_EQ(load_be<std::uint64_t>(reply, 0), nbd::option_reply_magic);
    return load_be<std::uint32_t>(reply, 12);
  };
  EXPECT_EQ(option(8, {}), nbd::rep_err_unsup);         // STRUCTURED_REPLY
  EXPECT_EQ(option(5, {}), nbd::rep_err_unsup);         // STARTTLS
  EXPECT_EQ(option(7, Bytes(3)), nbd::rep_err_invalid); // short GO
  EXPECT_EQ(option(7, Bytes(9)), nbd::rep_err_invalid); // trailing bytes
  EXPECT_EQ(option(7, Bytes(6, std::byte{0xff})), nbd::rep_err_invalid);
  EXPECT_EQ(option(3, Bytes(1)), nbd::rep_err_invalid); // LIST with data
  Bytes other(7);
  store_be<std::uint32_t>(other, 0, 1);
  EXPECT_EQ(option(7, other), nbd::rep_err_unknown); // another export
  EXPECT_EQ(option(2, {}), nbd::rep_ack);            // ABORT
  EXPECT_TRUE(client.closed());
}

TEST_F(NbdServerTest, SeveralConnectionsAtOnceAndACleanEndUnderLoad) {
  serve(4 << 20);
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; t++)
    threads.emplace_back([this, t] {
      BareClient client(*server);
      client.enter();
      for (unsigned i = 0; i < 200; i++) {
        const std::uint64_t at = (i * 4 + t) * 1024;
        client.add(nbd::request_magic).add(std::uint16_t{0}).add(std::uint16_t{1}).add(std::uint64_t{i}).add(at);
        client.add(std::uint32_t{1024});
        for (unsigned k = 0; k < 1024; k++)
          client.add(static_cast<std::uint8_t>('a' + t));
        client.send();
        const Bytes reply = client.receive(16);
        ASSERT_EQ(reply.size(), 16U);
        ASSERT_EQ(load_be<std::uint32_t>(reply, 4), 0U);
      }
    });
  for (auto& thread : threads)
    thread.join();
  const Bytes all = read_all(*overlay, 0, 800 * 1024);
  for (std::size_t at = 0; at < all.size(); at += 512)
    ASSERT_EQ(all[at], static_cast<std::byte>('a' + at / 1024 % 4)) << at;

  BareClient idle(*server), half(*server); // one says nothing, one stops in a request
  half.enter();
  half.add(nbd::request_magic).send();
  server.reset();
  EXPECT_FALSE(std::filesystem::exists(dir.path() / "socket"));
  EXPECT_TRUE(idle.closed());
}

} // namespace
} // namespace kvmport::test
