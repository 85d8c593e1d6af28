// SPDX-License-Identifier: Apache-2.0
// Two processes: the machine runs in a child that opened everything it needs and then locked itself down
// (base/sandbox.h); it sends what it sees as messages. This process judges, keeps the time and looks at the shared
// screen.
#include "kvmboot/engine_kvm.h"

#include "base/hub.h"
#include "base/sandbox.h"
#include "base/text_screen.h"
#include "kvmboot/answerer.h"
#include "kvmboot/disk_evidence.h"
#include "kvmboot/judge.h"
#include "kvmboot/vmm/pc.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <fmt/format.h>
#include <poll.h>
#include <sstream>
#include <sys/socket.h>

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

namespace kvmport {
namespace {

constexpr milliseconds news_every{20}, ask_every{100}, tick_every{1000};
constexpr std::size_t max_text = 32U << 10;
/// Output of one console beyond this is dropped.
constexpr std::uint64_t max_console = 16U << 20;

using End = EngineOutcome::End;

/// What goes from the machine's process to ours: a piece of evidence, how the machine ended, or why there is none.
struct Message {
  enum class What : std::uint32_t { evidence, screen_start, end, refused };
  What what{};
  std::uint32_t value = 0; ///< Evidence::Kind, first character shown, or End
  std::int64_t at_ms = 0;
};

/// The machine's process: its boots, resets included, until an end.
class MachineProcess {
 public:
  MachineProcess(const BootSpec& spec, const vmm::Supplies& supplies, DiskEvidence& disks, int socket)
      : spec_(spec), supplies_(supplies), disks_(disks), socket_(socket), answerer_(spec.answers) {}

  int run() {
    End end = End::engine_failed;
    std::string detail;
    try {
      std::optional<End> seen;
      while (!seen) {
        vmm::Pc pc(spec_, supplies_);
        pc.start();
        seen = watch(pc);
        if (seen == End::engine_failed)
          detail = failure_.empty() ? pc.failure() : failure_;
      }
      end = *seen;
    } catch (const Error& e) {
      if (e.code() != "ENGINE_FAILED")
        send(Message::What::refused, 0, fmt::format("{}\n{}\n{}\n{}", e.code(), e.summary(), e.why(), e.hint()));
      detail = e.summary() + (e.why().empty() ? "" : ": " + e.why());
    }
    send(Message::What::end, static_cast<std::uint32_t>(end), detail);
    return 0;
  }

 private:
  milliseconds age() const { return std::chrono::duration_cast<milliseconds>(Clock::now() - began_); }

  void send(Message::What what, std::uint32_t value, std::string_view text) {
    do {
      const Message head{what, value, age().count()};
      const std::string message = std::string(as_text(std::as_bytes(std::span(&head, 1)))).append(text, 0, max_text);
      text.remove_prefix(std::min(text.size(), max_text));
      if (::send(socket_, message.data(), message.size(), MSG_NOSIGNAL) < 0)
        ::_exit(0); // nobody wants to know any more
    } while (!text.empty());
  }
  void tell(Evidence::Kind kind, std::string_view text) {
    send(Message::What::evidence, static_cast<std::uint32_t>(kind), text);
  }
  void console(Evidence::Kind kind, std::uint64_t& seen, const std::string& text) {
    if (!text.empty() && (seen += text.size()) <= max_console)
      tell(kind, text);
  }

  /// Nothing when the machine wants to start anew.
  std::optional<End> watch(vmm::Pc& pc) {
    for (;;) {
      const auto end = pc.wait(news_every);
      tell_news(pc);
      if (end || age() - last_tick_ >= tick_every)
        tick(pc);
      if (!failure_.empty() || end == vmm::Pc::End::failed)
        return End::engine_failed;
      if (end == vmm::Pc::End::power_off) {
        tell(Evidence::Kind::shutdown, "");
        return End::shutdown;
      }
      if (end == vmm::Pc::End::reset) {
        tell(Evidence::Kind::reset, "");
        disks_.restart();
        return std::nullopt;
      }
    }
  }

  void tell_news(vmm::Pc& pc) {
    const vmm::Pc::News news = pc.take_news();
    console(Evidence::Kind::firmware, firmware_seen_, news.firmware);
    console(Evidence::Kind::serial, serial_seen_, news.serial);
    if (const std::string answer = answerer_.feed(news.serial); !answer.empty())
      pc.type(answer);
    for (const std::string& note : disks_.take_writes())
      tell(Evidence::Kind::disk_write, note);
    for (const std::string& driver : news.drivers)
      tell(Evidence::Kind::disk, to_string(Milestone::kernel) + ": " + driver);
    for (const std::string& seen : disks_.take())
      tell(Evidence::Kind::disk, seen);
    if (!news.disk_failure.empty())
      failure_ = "a disk failed: " + news.disk_failure;
  }

  void tick(vmm::Pc& pc) {
    last_tick_ = age();
    send(Message::What::screen_start, pc.screen_start(), {});
    tell(Evidence::Kind::tick, disks_.take_used() ? "disk" : "");
  }

  const BootSpec& spec_;
  const vmm::Supplies& supplies_;
  DiskEvidence& disks_;
  int socket_;
  Answerer answerer_;
  Clock::time_point began_ = Clock::now();
  milliseconds last_tick_{};
  std::uint64_t firmware_seen_ = 0, serial_seen_ = 0;
  std::string failure_;
};

/// The Error that was sent as four lines.
Error refusal(const std::string& text) {
  std::array<std::string, 4> parts;
  std::istringstream lines(text);
  for (std::string& part : parts)
    std::getline(lines, part);
  return {parts[0], parts[1], parts[2], parts[3]};
}

/// Our side.
class Run {
 public:
  Run(const BootSpec& spec, const std::function<double()>& time_scale, const EvidenceSink& sink)
      : spec_(spec), time_scale_(time_scale), sink_(sink), kvm_(vmm::open_kvm()),
        images_(vmm::read_firmware_images(spec)) {
    for (const BootNic& nic : spec.nics) {
      if (!nic.hub.empty())
        ports_.push_back(std::make_unique<HubPort>(nic.hub));
      cables_.push_back(nic.hub.empty() ? -1 : ports_.back()->fd());
    }
  }

  EngineOutcome go(const StopToken& stop) {
    const vmm::Supplies supplies{images_, kvm_.get(), video_.fd(), cables_,
                                 [this](std::size_t disk, Range range, bool write) {
                                   write ? disks_.written(disk, range) : disks_.read(disk, range);
                                 }};
    ForkedChild child([&](int socket) {
      SandboxLimits limits;
      limits.cpu = cpu_limit();
      limits.ioctls = vmm::kvm_requests();
      limits.threads = true;
      limits.keep = cables_;
      limits.keep.insert(limits.keep.end(), {socket, kvm_.get(), video_.fd()});
      enter_sandbox(limits);
      return MachineProcess(spec_, supplies, disks_, socket).run();
    });
    outcome_.end = watch(child.socket(), stop);
    const ForkedChild::End end = child.finish(true);
    if (outcome_.end == End::engine_failed && outcome_.detail.empty())
      outcome_.detail = "the machine's process ended with " + std::to_string(end.exit_code);
    if (!spec_.screenshot.empty() && outcome_.end != End::engine_failed)
      write_screenshot(video_.text(), screen_start_, images_.vga, spec_.screenshot);
    outcome_.wall = age();
    outcome_.cpu = end.cpu;
    return outcome_;
  }

 private:
  milliseconds age() const { return std::chrono::duration_cast<milliseconds>(Clock::now() - began_); }

  /// A backstop for a machine's process that nobody watches any more; the deadline is ours to keep.
  std::chrono::seconds cpu_limit() const {
    constexpr unsigned most_scale = 200;
    return spec_.timeout * most_scale * (std::max(1U, spec_.cpus) + 1);
  }

  /// The scale takes a probe of the host, so it is asked for only when the time of a fast host has passed.
  bool timed_out() const {
    return age() >= spec_.timeout && age() >= std::chrono::duration<double>(spec_.timeout) * time_scale_();
  }

  End watch(int socket, const StopToken& stop) {
    for (;;) {
      if (stop.requested())
        return End::interrupted;
      if (timed_out())
        return End::timeout;
      pollfd polled{socket, POLLIN, 0};
      if (::poll(&polled, 1, static_cast<int>(ask_every.count())) <= 0)
        continue;
      if (const auto end = receive(socket))
        return *end;
    }
  }

  std::optional<End> receive(int socket) {
    Message head;
    std::string text(sizeof head + max_text, '\0');
    const ssize_t size = ::recv(socket, text.data(), text.size(), MSG_DONTWAIT);
    if (size < 0 && (errno == EINTR || errno == EAGAIN))
      return std::nullopt;
    if (size < static_cast<ssize_t>(sizeof head))
      return End::engine_failed;
    std::memcpy(&head, text.data(), sizeof head);
    return handle(head, text.substr(sizeof head, static_cast<std::size_t>(size) - sizeof head));
  }

  /// The machine's process may have been taken over by its guest: nothing in a message is trusted.
  std::optional<End> handle(const Message& head, std::string text) {
    if (head.what == Message::What::screen_start) {
      screen_start_ = head.value;
      return std::nullopt;
    }
    if (head.what == Message::What::end) {
      outcome_.detail = std::move(text);
      return head.value == static_cast<std::uint32_t>(End::shutdown) ? End::shutdown : End::engine_failed;
    }
    if (head.what == Message::What::refused)
      throw refusal(text);
    if (head.value > static_cast<std::uint32_t>(Evidence::Kind::tick))
      return End::engine_failed;
    const auto kind = static_cast<Evidence::Kind>(head.value);
    const bool more = kind != Evidence::Kind::tick || look_at_screen();
    return more && sink_({kind, age(), std::move(text)}) ? std::nullopt : std::optional(End::judged);
  }

  bool look_at_screen() {
    auto text = decode_text_screen(video_.text());
    if (!text || *text == screen_)
      return true;
    screen_ = *text;
    return sink_({Evidence::Kind::screen, age(), std::move(*text)});
  }

  const BootSpec& spec_;
  const std::function<double()>& time_scale_;
  const EvidenceSink& sink_;
  UniqueFd kvm_;
  vmm::FirmwareImages images_;
  vmm::VideoMemory video_;
  std::vector<std::unique_ptr<HubPort>> ports_;
  std::vector<int> cables_; ///< one for each network card; -1: none is plugged in
  DiskEvidence disks_{spec_.disks, std::filesystem::temp_directory_path()}; ///< the machine's process works with it
  Clock::time_point began_ = Clock::now();
  std::string screen_;
  unsigned screen_start_ = 0;
  EngineOutcome outcome_;
};

class KvmEngine final : public Engine {
 public:
  explicit KvmEngine(KvmEngineOptions options) : options_(std::move(options)) {}
  std::string name() const override { return "kvm"; }
  std::string reason() const override { return options_.reason(); }
  double time_scale() const override { return options_.time_scale(); }
  std::string unsupported(const BootSpec& spec) const override { return vmm::Pc::unsupported(spec); }
  Engine* fallback() const override { return options_.fallback.get(); }
  EngineOutcome run(const BootSpec& spec, const EvidenceSink& evidence, const StopToken& stop) override {
    if (const std::string why = unsupported(spec); !why.empty())
      throw Error("BOOT_UNSUPPORTED", why, {}, "use --engine qemu");
    return Run(spec, options_.time_scale, evidence).go(stop);
  }

 private:
  KvmEngineOptions options_;
};

} // namespace

std::unique_ptr<Engine> make_kvm_engine(KvmEngineOptions options) {
  return std::make_unique<KvmEngine>(std::move(options));
}

} // namespace kvmport
