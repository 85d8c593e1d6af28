// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/engine_qemu.h"

#include "base/firmware_files.h"
#include "base/hub.h"
#include "base/process.h"
#include "base/qmp.h"
#include "base/text_screen.h"
#include "formats/nbd_server.h"
#include "kvmboot/answerer.h"
#include "kvmboot/disk_evidence.h"
#include "kvmboot/qemu_command.h"

#include <array>
#include <cstdlib>
#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace fs = std::filesystem;
using nlohmann::json;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

namespace kvmport {
namespace {

constexpr milliseconds start_timeout{120000}, command_timeout{10000}, round{200}, tick_every{1000};
/// More output of a console than this is read and dropped.
constexpr std::uint64_t max_console = 16U << 20;
constexpr std::size_t max_stderr = 4096;

struct ConsolePipe {
  UniqueFd fd;
  Evidence::Kind kind;
  std::uint64_t seen = 0;
};

void put_copy(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::copy_file(from, to, fs::copy_options::overwrite_existing, error);
  if (error)
    throw system_error(error.value(), "can't copy " + from.string() + " to " + to.string());
}

/// One machine, from power-on to its end.
class Run {
 public:
  Run(const BootSpec& spec, bool kvm, const EvidenceSink& sink)
      : spec_(spec), kvm_(kvm), sink_(sink), answerer_(spec.answers), stderr_(open_unnamed(temp_.path())) {}

  EngineOutcome go(milliseconds timeout, const StopToken& stop) {
    EngineOutcome outcome;
    try {
      start();
      outcome.end = watch(timeout, stop);
      if (outcome.end == End::engine_failed)
        outcome.detail = own_words();
      for (const auto& server : servers_)
        if (outcome.detail.empty() && !server->failure().empty())
          outcome.detail = "a disk failed: " + server->failure();
      if (!spec_.screenshot.empty() && outcome.end != End::engine_failed)
        screenshot();
    } catch (const Error& e) {
      if (e.code() != "ENGINE_FAILED" && e.code() != "PROGRAM_MISSING")
        throw;
      outcome.end = End::engine_failed;
      const std::string words = own_words();
      outcome.detail = e.summary() + (words.empty() ? "" : ": " + words);
    }
    outcome.wall = age();
    outcome.cpu = std::max(cpu_, child_ ? child_->cpu_time() : milliseconds(0));
    return outcome;
  }

 private:
  using End = EngineOutcome::End;

  void start() {
    QemuSetup setup;
    setup.kvm = kvm_;
    for (std::size_t n = 0; n < spec_.disks.size(); n++) {
      setup.nbd_sockets.push_back(temp_.path() / ("disk" + std::to_string(n)));
      servers_.push_back(std::make_unique<NbdServer>(*spec_.disks[n].overlay, setup.nbd_sockets.back()));
      servers_.back()->on_read([this, n](Range range) { disk_evidence_.read(n, range); });
      servers_.back()->on_write([this, n](Range range) { disk_evidence_.written(n, range); });
    }
    if (spec_.firmware == Firmware::uefi) {
      const UefiImages images = find_uefi_images(spec_.secure_boot, spec_.nvram);
      setup.uefi_code = images.code;
      setup.uefi_vars = temp_.path() / "vars.fd";
      put_copy(images.vars, setup.uefi_vars);
      fs::permissions(setup.uefi_vars, fs::perms::owner_read | fs::perms::owner_write);
    }
    auto [qmp, qmp_of_qemu] = socket_pair(SOCK_STREAM);
    auto [serial, serial_of_qemu] = socket_pair(SOCK_STREAM);
    auto [debug, debug_of_qemu] = socket_pair(SOCK_STREAM);
    const auto argv = qemu_command(spec_, setup);
    std::vector<std::pair<int, int>> inherited{{qmp_of_qemu.get(), setup.qmp_fd},
                                               {serial_of_qemu.get(), setup.serial_fd},
                                               {debug_of_qemu.get(), setup.debug_fd},
                                               {stderr_.get(), 2}};
    for (std::size_t n = 0; n < spec_.nics.size(); n++)
      if (!spec_.nics[n].hub.empty()) {
        ports_.push_back(std::make_unique<HubPort>(spec_.nics[n].hub));
        inherited.emplace_back(ports_.back()->fd(), setup.first_nic_fd + static_cast<int>(n));
      }
    began_ = Clock::now();
    child_.emplace(argv, inherited);
    qmp_.emplace(std::move(qmp));
    serial_.fd = std::move(serial);
    debug_.fd = std::move(debug);
    qmp_of_qemu.reset();
    qmp_->greet(start_timeout);
  }

  milliseconds age() const { return std::chrono::duration_cast<milliseconds>(Clock::now() - began_); }
  void emit(Evidence::Kind kind, std::string text) {
    if (!judged_)
      judged_ = !sink_({kind, age(), std::move(text)});
  }

  End watch(milliseconds timeout, const StopToken& stop) {
    while (!judged_) {
      if (stop.requested())
        return End::interrupted;
      if (age() >= timeout)
        return End::timeout;
      std::array<pollfd, 3> polled{pollfd{qmp_->fd(), POLLIN, 0}, pollfd{serial_.fd.get(), POLLIN, 0},
                                   pollfd{debug_.fd.get(), POLLIN, 0}};
      ::poll(polled.data(), polled.size(), static_cast<int>(round.count()));
      read_console(debug_);
      read_console(serial_);
      tell_disks();
      if (const auto end = machine_events())
        return *end;
      if (age() - last_tick_ >= tick_every)
        tick();
    }
    return End::judged;
  }

  void read_console(ConsolePipe& console) {
    std::array<char, 65536> bytes;
    const ssize_t n = ::recv(console.fd.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (n <= 0)
      return;
    const std::string_view text(bytes.data(), static_cast<std::size_t>(n));
    console.seen += text.size();
    if (console.seen > max_console)
      return;
    emit(console.kind, std::string(text));
    if (console.kind == Evidence::Kind::serial)
      if (const std::string answer = answerer_.feed(text); !answer.empty())
        (void)::send(console.fd.get(), answer.data(), answer.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  }

  std::optional<End> machine_events() {
    for (const Qmp::Event& event : qmp_->take_events()) {
      if (event.name == "RESET" && event.by_guest) {
        read_console(serial_);
        emit(Evidence::Kind::reset, "");
        disk_evidence_.restart();
      } else if (event.name == "SHUTDOWN") {
        read_console(serial_);
        emit(Evidence::Kind::shutdown, "");
        return End::shutdown;
      } else if (event.name == "GUEST_PANICKED") {
        emit(Evidence::Kind::fault, "the guest reported a panic");
      } else if (event.name == "STOP") {
        // Nobody asked for it: QEMU stops a machine that it can't run on (internal error of KVM).
        return End::engine_failed;
      }
    }
    if (qmp_->closed())
      return End::engine_failed;
    return std::nullopt;
  }

  void tell_disks() {
    for (std::string& note : disk_evidence_.take_writes())
      emit(Evidence::Kind::disk_write, std::move(note));
    for (std::string& text : disk_evidence_.take())
      emit(Evidence::Kind::disk, std::move(text));
  }

  void look_at_screen() {
    const fs::path dump = temp_.path() / "screen";
    try {
      qmp_->execute("pmemsave", {{"val", vga_text_address}, {"size", vga_text_size}, {"filename", dump.string()}},
                    command_timeout);
    } catch (const Error&) {
      if (!qmp_->closed())
        return; // on a busy host it may be long with the guest's disk requests: the next look may succeed
      throw;
    }
    const std::string window = read_file(dump);
    auto text = decode_text_screen(as_bytes(window));
    if (text && *text != screen_) {
      screen_ = *text;
      emit(Evidence::Kind::screen, std::move(*text));
    }
  }

  void tick() {
    last_tick_ = age();
    cpu_ = child_->cpu_time();
    look_at_screen();
    emit(Evidence::Kind::tick, disk_evidence_.take_used() ? "disk" : "");
  }

  /// A picture that QEMU can't make is no failure of the run; a place where it can't be put is.
  void screenshot() {
    const fs::path shot = temp_.path() / "screen.png";
    try {
      qmp_->execute("screendump", {{"filename", shot.string()}, {"format", "png"}}, command_timeout);
    } catch (const Error&) {
      return;
    }
    put_copy(shot, spec_.screenshot);
  }

  std::string own_words() {
    std::string text(max_stderr, '\0');
    text.resize(read_some(stderr_.get(), 0, std::as_writable_bytes(std::span(text)), "QEMU's messages"));
    return text;
  }

  const BootSpec& spec_;
  const bool kvm_;
  const EvidenceSink& sink_;
  TempDir temp_;
  DiskEvidence disk_evidence_{spec_.disks, temp_.path()};
  std::vector<std::unique_ptr<NbdServer>> servers_;
  std::vector<std::unique_ptr<HubPort>> ports_;
  ConsolePipe serial_{{}, Evidence::Kind::serial}, debug_{{}, Evidence::Kind::firmware};
  Answerer answerer_;
  UniqueFd stderr_;
  std::optional<Child> child_;
  std::optional<Qmp> qmp_;
  Clock::time_point began_ = Clock::now();
  milliseconds cpu_{}, last_tick_{};
  std::string screen_;
  bool judged_ = false;
};
class QemuEngine final : public Engine {
 public:
  QemuEngine(bool kvm, double time_scale, std::string reason, std::unique_ptr<Engine> fallback)
      : kvm_(kvm), time_scale_(time_scale), reason_(std::move(reason)), fallback_(std::move(fallback)) {}

  std::string name() const override { return kvm_ ? "qemu-kvm" : "qemu-tcg"; }
  std::string reason() const override { return reason_; }
  double time_scale() const override { return time_scale_; }
  Engine* fallback() const override { return fallback_.get(); }
  EngineOutcome run(const BootSpec& spec, const EvidenceSink& evidence, const StopToken& stop) override {
    const std::chrono::duration<double> scaled = spec.timeout * time_scale_;
    return Run(spec, kvm_, evidence).go(std::chrono::duration_cast<milliseconds>(scaled), stop);
  }

 private:
  bool kvm_;
  double time_scale_;
  std::string reason_;
  std::unique_ptr<Engine> fallback_;
};

} // namespace

std::unique_ptr<Engine> make_qemu_engine(bool kvm, double time_scale, std::string reason,
                                         std::unique_ptr<Engine> fallback) {
  return std::make_unique<QemuEngine>(kvm, time_scale, std::move(reason), std::move(fallback));
}

} // namespace kvmport
