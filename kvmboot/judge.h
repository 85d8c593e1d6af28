// SPDX-License-Identifier: Apache-2.0
// Turns evidence from any engine into milestones, or into a named diagnosis with the lines that show it. Success is
// only ever concluded from evidence that is there, never from the absence of a failure.
#pragma once

#include "kvmboot/engine.h"

#include <optional>
#include <string>
#include <vector>

namespace kvmport {

/// In the order in which a boot reaches them.
enum class Milestone { firmware, bootloader, kernel, initramfs, root, init, login };
std::string to_string(Milestone milestone);
/// By name; Error MILESTONE_UNKNOWN lists the names.
Milestone parse_milestone(const std::string& name);

struct MilestoneHit {
  Milestone milestone;
  std::chrono::milliseconds at;
  std::string evidence; ///< the line, or what was seen
  std::string source;   ///< "serial", "screen", "firmware", "disk"
};

struct Diagnosis {
  std::string code; ///< "ROOT_DEVICE_MISSING", "KERNEL_PANIC", "GRUB_RESCUE", "NO_BOOTABLE_DEVICE", "BOOT_LOOP",
                    ///< "BOOT_TIMEOUT", …
  std::string text; ///< for people, with what to do
  std::vector<std::string> lines; ///< the decisive lines, quoted
  std::string detail;             ///< sub-kind of KERNEL_PANIC ("VFS_NO_ROOT", "NO_INIT", "INIT_KILLED"); else empty
};

struct Verdict {
  bool proven = false; ///< the asked milestone was reached
  Milestone asked = Milestone::login;
  std::vector<MilestoneHit> reached;  ///< in order
  std::optional<Diagnosis> diagnosis; ///< when not proven
  std::string engine;
  std::string engine_reason;
  std::chrono::milliseconds wall{}, cpu{};
};

/// Feed it evidence in order; ask it whether the verdict is clear. One thread at a time.
class Judge {
 public:
  /// `silence`: how long nothing new may be seen (nor the disks be used) before the boot counts as hung; asked for only
  /// when there is a silence.
  using Silence = std::function<std::chrono::milliseconds()>;
  explicit Judge(
      Milestone until, Silence silence = [] { return std::chrono::minutes(2); });
  ~Judge();
  Judge(const Judge&) = delete;
  Judge& operator=(const Judge&) = delete;
  /// Returns true while more evidence is wanted.
  bool feed(const Evidence& evidence);
  /// So far, in the order of milestones.
  const std::vector<MilestoneHit>& reached() const;
  Verdict verdict(const EngineOutcome& outcome) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Runs `spec` on `engine` under a Judge; the serial bytes go to `serial_log` as well (path, may be empty).
Verdict prove_boot(Engine& engine, const BootSpec& spec, Milestone until, const std::filesystem::path& serial_log,
                   EventSink& sink, const StopToken& stop);

} // namespace kvmport
