// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/engine_kvm.h"

#include "base/error.h"
#include "kvmboot/hub.h"
#include "kvmboot/qemu_console.h"
#include "kvmboot/vmm/pc.h"

#include <sys/resource.h>

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

namespace kvmport {
namespace {

constexpr milliseconds look_every{50}, tick_every{1000};

/// User and system time of this process.
milliseconds own_cpu_time() {
  rusage used{};
  ::getrusage(RUSAGE_SELF, &used);
  return milliseconds((used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000 +
                      (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1000);
}

/// The boots of one machine, resets included, until a verdict or an end.
class Run {
 public:
  Run(const BootSpec& spec, const EvidenceSink& sink) : spec_(spec), sink_(sink), answerer_(spec.answers) {
    for (const BootNic& nic : spec.nics) {
      if (!nic.hub.empty())
        ports_.push_back(std::make_unique<HubPort>(nic.hub));
      cables_.push_back(nic.hub.empty() ? -1 : ports_.back()->fd());
    }
  }

  EngineOutcome go(milliseconds timeout, const StopToken& stop) {
    const milliseconds cpu = own_cpu_time();
    EngineOutcome outcome;
    try {
      const vmm::BiosImages images = vmm::read_bios_images();
      std::optional<End> end;
      while (!end) {
        vmm::Pc pc(spec_, images, cables_);
        pc.start();
        end = watch(pc, timeout, stop);
        if (end == End::engine_failed)
          outcome.detail = failure_.empty() ? pc.failure() : failure_;
      }
      outcome.end = *end;
    } catch (const Error& e) {
      if (e.code() != "ENGINE_FAILED")
        throw;
      outcome.detail = e.summary() + (e.why().empty() ? "" : ": " + e.why());
    }
    outcome.wall = age();
    outcome.cpu = own_cpu_time() - cpu;
    return outcome;
  }

 private:
  using End = EngineOutcome::End;

  milliseconds age() const { return std::chrono::duration_cast<milliseconds>(Clock::now() - began_); }
  void emit(Evidence::Kind kind, std::string text) {
    if (!judged_)
      judged_ = !sink_({kind, age(), std::move(text)});
  }

  /// Nothing when the machine wants to start anew.
  std::optional<End> watch(vmm::Pc& pc, milliseconds timeout, const StopToken& stop) {
    for (;;) {
      const auto end = pc.wait(look_every);
      tell(pc);
      if (end || age() - last_tick_ >= tick_every)
        tick(pc);
      if (judged_)
        return End::judged;
      if (!failure_.empty())
        return End::engine_failed;
      if (end == vmm::Pc::End::failed)
        return End::engine_failed;
      if (end == vmm::Pc::End::power_off) {
        emit(Evidence::Kind::shutdown, "");
        return End::shutdown;
      }
      if (end == vmm::Pc::End::reset) {
        emit(Evidence::Kind::reset, "");
        return judged_ ? std::optional(End::judged) : std::nullopt;
      }
      if (stop.requested())
        return End::interrupted;
      if (age() >= timeout)
        return End::timeout;
    }
  }

  void tell(vmm::Pc& pc) {
    vmm::Pc::News news = pc.take_news();
    if (!news.firmware.empty())
      emit(Evidence::Kind::firmware, std::move(news.firmware));
    if (!news.serial.empty()) {
      if (const std::string answer = answerer_.feed(news.serial); !answer.empty())
        pc.type(answer);
      emit(Evidence::Kind::serial, std::move(news.serial));
    }
    for (std::string& note : news.writes)
      emit(Evidence::Kind::disk_write, std::move(note));
    if (!news.disk_failure.empty())
      failure_ = "a disk failed: " + news.disk_failure;
    disk_used_ = disk_used_ || news.disk_bytes != disk_bytes_;
    disk_bytes_ = news.disk_bytes;
  }

  void tick(vmm::Pc& pc) {
    last_tick_ = age();
    auto text = decode_text_screen(pc.text_window());
    if (text && *text != screen_) {
      screen_ = *text;
      emit(Evidence::Kind::screen, std::move(*text));
    }
    emit(Evidence::Kind::tick, std::exchange(disk_used_, false) ? "disk" : "");
  }

  const BootSpec& spec_;
  const EvidenceSink& sink_;
  Answerer answerer_;
  std::vector<std::unique_ptr<HubPort>> ports_;
  std::vector<int> cables_; ///< one for each network card; -1: none is plugged in
  Clock::time_point began_ = Clock::now();
  milliseconds last_tick_{};
  std::uint64_t disk_bytes_ = 0;
  std::string screen_, failure_;
  bool disk_used_ = false, judged_ = false;
};

class KvmEngine final : public Engine {
 public:
  KvmEngine(double time_scale, std::string reason) : time_scale_(time_scale), reason_(std::move(reason)) {}
  std::string name() const override { return "kvm"; }
  std::string reason() const override { return reason_; }
  EngineOutcome run(const BootSpec& spec, const EvidenceSink& evidence, const StopToken& stop) override {
    const std::chrono::duration<double> scaled = spec.timeout * time_scale_;
    return Run(spec, evidence).go(std::chrono::duration_cast<milliseconds>(scaled), stop);
  }

 private:
  double time_scale_;
  std::string reason_;
};

} // namespace

std::unique_ptr<Engine> make_kvm_engine(double time_scale, std::string reason) {
  return std::make_unique<KvmEngine>(time_scale, std::move(reason));
}

} // namespace kvmport
