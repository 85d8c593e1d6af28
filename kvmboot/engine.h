// SPDX-License-Identifier: Apache-2.0
// Running a machine to see how far it boots. An engine runs a BootSpec and tells what it sees as evidence; it judges
// nothing. Disks are overlays: what the guest writes vanishes with them. There is no network but a private hub's.
#pragma once

#include "base/events.h"
#include "formats/overlay.h"

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace kvmport {

enum class Firmware { bios, uefi };

/// The bus that a disk or network card is shown on.
enum class DiskBus { virtio_blk, virtio_scsi, sata, ide };

struct BootDisk {
  Overlay* overlay = nullptr; ///< borrowed; must outlive the run
  DiskBus bus = DiskBus::virtio_blk;
  std::uint32_t logical_sector = 512;
  std::string serial; ///< may be empty
};

struct BootNic {
  std::string mac;              ///< "52:54:00:…"
  std::string model = "virtio"; ///< "virtio", "e1000e", "e1000"
  std::filesystem::path hub{};  ///< directory of the hub that its cable leads to; empty: no cable is plugged in
};

/// Text typed on the serial console each time `pattern` (ECMAScript regex) shows up there, at most `times`.
struct ConsoleAnswer {
  std::string pattern, text;
  int times = 3;
};

/// A Linux kernel that is started straight, without firmware and boot loader.
struct LinuxBoot {
  std::filesystem::path kernel; ///< bzImage or ELF vmlinux
  std::filesystem::path initrd; ///< may be empty
  std::string command_line;
};

struct BootSpec {
  std::string name;
  Firmware firmware = Firmware::bios;
  std::optional<LinuxBoot> linux; ///< instead of firmware; wants Firmware::bios
  bool secure_boot = false;
  std::filesystem::path nvram;       ///< UEFI variables to start from (copied, never written); empty: fresh ones
  std::uint64_t memory = 1ULL << 30; ///< bytes
  unsigned cpus = 1;
  std::vector<BootDisk> disks; ///< in boot order
  std::vector<BootNic> nics;
  std::vector<ConsoleAnswer> answers;
  std::chrono::seconds timeout{300}; ///< for a machine of ordinary speed; engines scale it (Probe::time_scale)
  std::chrono::seconds linger{0};    ///< goes on for so long after the verdict, for what the guest still has to write
  std::filesystem::path screenshot;  ///< PNG of the last screen; empty: none
};

/// One thing that was seen.
struct Evidence {
  enum class Kind {
    serial,     ///< bytes of the first serial port
    firmware,   ///< bytes of the firmware's debug port (0x402)
    screen,     ///< the text screen changed: lines of 80 (also some scrolled away), blanks cut, joined by '\n'
    disk_write, ///< the guest wrote (text: "DISK OFFSET LENGTH")
    disk,       ///< what it does to its disks shows a milestone (text: its name, ": ", what was seen); disk_evidence.h
    reset,      ///< the machine reset itself
    shutdown,   ///< powered off
    fault,      ///< guest fault that ended the machine (triple fault, panic device)
    tick,       ///< time has passed, about a second; text is "disk" when the guest used its disks meanwhile, else empty
  };
  Kind kind;
  std::chrono::milliseconds at; ///< since power-on
  std::string text;
};

/// Gets evidence from any engine thread, one call at a time. Returns false when the run may end (verdict is clear).
using EvidenceSink = std::function<bool(const Evidence&)>;

struct EngineOutcome {
  enum class End { judged, timeout, shutdown, engine_failed, interrupted };
  End end = End::engine_failed;
  std::string detail;                      ///< why the engine failed
  std::chrono::milliseconds wall{}, cpu{}; ///< cpu: of the engine's own processes
};

class Engine {
 public:
  virtual ~Engine() = default;
  /// "qemu-tcg", "qemu-kvm", …
  virtual std::string name() const = 0;
  /// Why it is this one, in a few words for people; may be empty.
  virtual std::string reason() const { return {}; }
  /// Factor for time-outs: 1 for a machine of ordinary speed. May take a probe of the host on the first call.
  virtual double time_scale() const { return 1.0; }
  /// Which part of `spec` it has not; empty: it can run it.
  virtual std::string unsupported(const BootSpec&) const { return {}; }
  /// The engine to take when this one fails or can't run a machine; null: none.
  virtual Engine* fallback() const { return nullptr; }
  /// Runs until `evidence` returns false, the machine ends, the (scaled) timeout passes or `stop` is asked for.
  virtual EngineOutcome run(const BootSpec& spec, const EvidenceSink& evidence, const StopToken& stop) = 0;
};

} // namespace kvmport
