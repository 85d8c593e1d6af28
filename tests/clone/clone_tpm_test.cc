// SPDX-License-Identifier: Apache-2.0
// The state of an emulated TPM: copied with the clone, so that swtpm shows the same keys on both, or refused.
#include "base/process.h"
#include "tests/clone/clone_fixture.h"

#include <array>
#include <csignal>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

using State = CloneOutcome::State;

/// What a TPM of this state answers when it is asked for the public part of its endorsement key: TPM2_ReadPublic of
/// the handle 0x81010001 (TPM 2.0 Library, part 3, section 12.4), where swtpm_setup puts it.
std::string endorsement_key(const fs::path& state, const fs::path& socket) {
  const std::string directory = "dir=" + state.string(), server = "type=unixio,path=" + socket.string();
  const pid_t swtpm = ::fork();
  if (swtpm == 0) {
    ::execlp("swtpm", "swtpm", "socket", "--tpm2", "--tpmstate", directory.c_str(), "--server", server.c_str(),
             "--flags", "not-need-init,startup-clear", nullptr);
    ::_exit(127);
  }
  const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  socket.string().copy(address.sun_path, sizeof address.sun_path - 1);
  bool connected = false;
  for (int i = 0; i < 200 && !connected; i++) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    connected = ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  }
  constexpr std::array<unsigned char, 14> read_public{0x80, 0x01, 0, 0, 0, 14, 0, 0, 0x01, 0x73, 0x81, 0x01, 0, 0x01};
  std::array<char, 4096> answer{};
  ssize_t got = 0;
  if (connected && ::write(fd.get(), read_public.data(), read_public.size()) == ssize_t{read_public.size()})
    got = ::read(fd.get(), answer.data(), answer.size());
  ::kill(swtpm, SIGTERM);
  ::waitpid(swtpm, nullptr, 0);
  return {answer.data(), static_cast<std::size_t>(std::max<ssize_t>(got, 0))};
}

class CloneOfTpm : public Clone {
 protected:
  void SetUp() override {
    Clone::SetUp();
    describe("qcow2", "", "",
             "<tpm model='tpm-crb'><backend type='emulator' version='2.0'><source type='dir' path='" +
                 state().string() + "'/></backend></tpm>");
  }
  void make_state() const {
    fs::create_directory(state());
    must_run({"swtpm_setup", "--tpm2", "--tpmstate", state().string(), "--createek", "--overwrite"});
  }
  fs::path state() const { return dir / "src/tpm"; }
  /// Where the clone's description has the state.
  fs::path state_in(const fs::path& xml) const {
    const std::string text = read_file(xml);
    const std::size_t at = text.find("path='", text.find("<tpm")) + 6;
    return text.substr(at, text.find('\'', at) - at);
  }
};

TEST_F(CloneOfTpm, HasTheKeysOfItsSource) {
  make_state();
  const CloneResult result = clone(options(), {{"web2"}});
  ASSERT_EQ(result.clones.at(0).state, State::done) << result.clones[0].error->what();
  const fs::path copy = state_in(out("web2.xml"));
  EXPECT_NE(copy, state());
  EXPECT_EQ(sha256_of(copy / "tpm2-00.permall"), sha256_of(state() / "tpm2-00.permall"));
  EXPECT_THAT(result.clones[0].notes, testing::Contains(testing::HasSubstr("opens on both")));
  const std::string key = endorsement_key(state(), dir / "a.socket");
  ASSERT_GT(key.size(), 300U) << "no key in the answer";
  EXPECT_EQ(endorsement_key(copy, dir / "b.socket"), key);
}

TEST_F(CloneOfTpm, WithoutStateTheCloneIsToldToBeginEmpty) {
  const CloneResult result = clone(options(), {{"web2"}});
  ASSERT_EQ(result.clones.at(0).state, State::done);
  EXPECT_FALSE(fs::exists(state_in(out("web2.xml"))));
  EXPECT_THAT(result.clones[0].notes, testing::Contains(testing::HasSubstr("starts with an empty one")));
}

TEST_F(CloneOfTpm, AnothersStateIsNeverTaken) {
  make_state();
  CloneOptions o = options();
  o.dry_run = true;
  const fs::path copy = clone(o, {{"web2"}}).clones.at(0).description->tpm->to_path;
  fs::create_directories(copy);
  write_file_durably(copy / "tpm2-00.permall", "another's");
  const CloneResult result = clone(options(), {{"web2"}});
  ASSERT_EQ(result.clones.at(0).state, State::failed);
  EXPECT_EQ(result.clones[0].error->code(), "FILE_EXISTS");
  EXPECT_EQ(read_file(copy / "tpm2-00.permall"), "another's");
  EXPECT_EQ(names(out()), std::vector<std::string>{});
}

TEST_F(CloneOfTpm, AFailedCloneLeavesNoState) {
  make_state();
  // The source changes while it is cloned, which shows when all files are there.
  sink.on_stage = [&](const std::string& text) {
    if (text.starts_with("cloning "))
      fs::last_write_time(disk(), fs::file_time_type::clock::now() + std::chrono::seconds(5));
  };
  const CloneResult result = clone(options(), {{"web2"}});
  ASSERT_EQ(result.clones.at(0).state, State::failed);
  EXPECT_EQ(result.clones[0].error->code(), "SOURCE_CHANGED");
  EXPECT_FALSE(fs::exists(result.clones[0].description->tpm->to_path));
  EXPECT_TRUE(fs::exists(state() / "tpm2-00.permall"));
}

} // namespace
} // namespace kvmport::test
