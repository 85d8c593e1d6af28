// SPDX-License-Identifier: Apache-2.0
// Enrolment: the code, the messages over a real socket, and authorized_keys as sshd's own tools read it.
#include "libconvert/p2v/enrol.h"

#include "tests/support/tempdir.h"

#include <gmock/gmock.h>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

using namespace std::chrono_literals;

constexpr const char* fingerprint = "SHA256:QK1mFLo2m/6pTkTaDVZEMDSgzbyYYjLdKX1D2zVvR+k";

std::string code_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& e) {
    return e.code();
  }
  return "none";
}

class Enrol : public testing::Test {
 protected:
  void SetUp() override { key_ = make_key("key", "ed25519"); }
  std::string make_key(const std::string& name, const std::string& type) {
    must_run({"ssh-keygen", "-q", "-t", type, "-N", "", "-C", "a comment", "-f", dir_.path() / name});
    return read_file(dir_.path() / (name + ".pub"));
  }
  TempDir dir_;
  std::string key_;
  StopToken stop_;
  NullSink quiet_;
};

TEST_F(Enrol, KeysAreTakenByTheByte) {
  const std::string plain = parse_public_key(key_);
  EXPECT_EQ(plain, key_.substr(0, key_.find(" a comment")));
  const std::string base = plain.substr(12);
  for (const std::string& bad :
       {std::string(), std::string("ssh-ed25519"), std::string("ssh-ed25519 "), "ssh-ed25519 " + base.substr(4),
        "ssh-ed25519 " + base + "AAAA", "ssh-ed25519 B" + base.substr(1), "ssh-ed25519  " + base,
        "command=\"x\" ssh-ed25519 " + base, "ssh-rsa " + base, "ssh-ed25519 " + base.substr(0, 67) + "=",
        make_key("rsa", "rsa")})
    EXPECT_EQ(code_of([&] { parse_public_key(bad); }), "ENROL_INVALID") << bad;
}

TEST_F(Enrol, CodeDependsOnBothKeys) {
  const std::string key = parse_public_key(key_), other = parse_public_key(make_key("other", "ed25519"));
  const std::string code = enrol_code(key, fingerprint);
  EXPECT_THAT(code, testing::MatchesRegex("[A-Z2-7]{5}-[A-Z2-7]{5}"));
  EXPECT_EQ(enrol_code(key, fingerprint), code);
  EXPECT_NE(enrol_code(other, fingerprint), code);
  std::string server = fingerprint;
  server.back() = 'l';
  EXPECT_NE(enrol_code(key, server), code);
  std::string typed = code;
  typed.erase(5, 1);
  std::transform(typed.begin(), typed.end(), typed.begin(), [](unsigned char c) { return std::tolower(c); });
  EXPECT_EQ(normalized_code(" " + typed + "\n"), code);
  EXPECT_EQ(normalized_code("ABCDE-2345"), "");
  EXPECT_EQ(normalized_code("ABCDE-23451"), "");
}

/// Two versions of the program must agree. The value was computed by Python's hashlib.
TEST(EnrolCode, StaysTheSame) {
  EXPECT_EQ(enrol_code("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDxnN0XhcQ1xA7hX8rA1u2m0s9Yb1kqj7o5cQ3fZ0nqe", fingerprint),
            "33YR2-II7WR");
}

TEST_F(Enrol, FingerprintIsThatOfSshKeygen) {
  for (const char* type : {"ed25519", "rsa", "ecdsa"}) {
    const std::string line = make_key(std::string("host-") + type, type);
    const std::string said = must_run({"ssh-keygen", "-l", "-f", dir_.path() / (std::string("host-") + type + ".pub")});
    EXPECT_THAT(said, testing::HasSubstr(" " + key_fingerprint_of(line) + " "));
  }
}

TEST_F(Enrol, RequestsGoOverASocket) {
  EnrolListener listener("127.0.0.1", 0);
  const EnrolRequest request{parse_public_key(key_), "db1"};
  std::thread medium([&] {
    // Two that are no requests, then a real one: neither stops the listener.
    connect_tcp("127.0.0.1", listener.port(), 5s);
    send_message(connect_tcp("127.0.0.1", listener.port(), 5s).get(), "kvmport-enrol 2\nx\ny\n");
    const UniqueFd socket = connect_tcp("127.0.0.1", listener.port(), 5s);
    send_message(socket.get(), encode_request(request));
    EXPECT_EQ(receive_message(socket.get(), 10s, stop_), "accepted");
  });
  const auto caller = listener.next(std::chrono::steady_clock::now() + 20s, quiet_, stop_);
  ASSERT_TRUE(caller);
  EXPECT_EQ(caller->request.key, request.key);
  EXPECT_EQ(caller->request.name, "db1");
  EXPECT_EQ(caller->address, "127.0.0.1");
  send_message(caller->socket.get(), "accepted");
  medium.join();
  EXPECT_FALSE(listener.next(std::chrono::steady_clock::now() + 100ms, quiet_, stop_));
}

TEST_F(Enrol, HostileMessagesAreRefused) {
  const std::string key = parse_public_key(key_);
  for (const std::string& text : {std::string(), std::string("kvmport-enrol 1\n"), "kvmport-enrol 1\n" + key + "\ndb1",
                                  "kvmport-enrol 1\n" + key + "\ndb1\nmore\n"})
    EXPECT_EQ(code_of([&] { decode_request(text); }), "ENROL_INVALID") << text;
  for (const char* name : {"", "a b", "a\"b", "x;y", ".x", "\x1b[31m"})
    EXPECT_EQ(code_of([&] { decode_request("kvmport-enrol 1\n" + key + "\n" + name + "\n"); }), "SETTING_INVALID")
        << name;
  auto [a, b] = socket_pair(SOCK_STREAM);
  ASSERT_EQ(::write(a.get(), "\xff\xff", 2), 2);
  EXPECT_EQ(code_of([&] { receive_message(b.get(), 1s, stop_); }), "ENROL_INVALID");
  ASSERT_EQ(::write(a.get(), "\0\005xy", 4), 4);
  EXPECT_EQ(code_of([&] { receive_message(b.get(), 200ms, stop_); }), "CONNECTION_LOST")
      << "a slow caller is not waited for";
}

TEST_F(Enrol, AuthorizedKeysGrowByOneLine) {
  const fs::path file = dir_.path() / ".ssh/authorized_keys";
  const std::string line = authorized_line({parse_public_key(key_), "db1"}, "/usr/bin/kvm-p2v", "/srv/p2v");
  EXPECT_TRUE(line.starts_with("restrict,command=\"/usr/bin/kvm-p2v receive --only /srv/p2v\" ssh-ed25519 ")) << line;
  authorize(file, line);
  authorize(file, line);
  EXPECT_EQ(read_file(file), line + "\n");
  EXPECT_EQ(fs::status(file).permissions(), fs::perms(0600));
  EXPECT_EQ(fs::status(file.parent_path()).permissions(), fs::perms(0700));
  EXPECT_THAT(must_run({"ssh-keygen", "-l", "-f", file}), testing::HasSubstr("kvm-p2v:db1 (ED25519)"));
}

TEST_F(Enrol, AnOldFileKeepsItsLastLine) {
  const fs::path file = dir_.path() / "authorized_keys";
  write_file_durably(file, "ssh-ed25519 AAAA old"); // without a newline
  authorize(file, "new");
  EXPECT_EQ(read_file(file), "ssh-ed25519 AAAA old\nnew\n");
}

TEST_F(Enrol, DirectoriesThatNeedQuotingAreRefused) {
  for (const char* directory : {"srv", "/srv/a b", "/srv/\"x", "/srv/$HOME", "/srv/a;b", "/srv/\n"})
    EXPECT_EQ(code_of([&] {
                authorized_line({parse_public_key(key_), "db1"}, "/usr/bin/kvm-p2v", directory);
              }),
              "SETTING_INVALID")
        << directory;
}

} // namespace
} // namespace kvmport::test
