// SPDX-License-Identifier: Apache-2.0
// A virtual machine of /dev/kvm and its processors (Linux Documentation/virt/kvm/api.rst). Nothing else in this folder
// makes a KVM call.
#pragma once

#include "base/file.h"
#include "kvmboot/vmm/bus.h"
#include "kvmboot/vmm/guest_memory.h"

#include <atomic>
#include <linux/kvm.h>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace kvmport::vmm {

/// What KVM takes for itself of every guest's addresses: an identity map and a TSS (Intel processors of old want them).
inline constexpr std::uint64_t kvm_pages_at = 0xfeffc000, kvm_pages = 0x4000;

/// Opens the host's KVM. Error ENGINE_UNAVAILABLE.
UniqueFd open_kvm(const std::filesystem::path& device = "/dev/kvm");
/// Every ioctl that this file makes.
std::vector<unsigned long> kvm_requests();

/// Errors: ENGINE_FAILED.
class Vm {
 public:
  /// `kvm` is borrowed. `board`: with interrupt controllers and timer, which the kernel runs; on a machine without, a
  /// processor that halts has ended.
  explicit Vm(int kvm, bool board = true);
  /// Shows memory to the guest at this address; it must outlive the Vm. Returns the number of its slot.
  unsigned map(std::uint64_t address, std::span<const std::byte> memory, bool read_only);
  /// Shows or hides what was mapped; hidden, accesses go to the bus.
  void show(unsigned slot, bool visible);
  void set_irq(unsigned irq, bool level) const;
  void send_msi(std::uint64_t address, std::uint32_t data) const;
  int fd() const { return vm_.get(); }
  int kvm() const { return kvm_; }
  bool board() const { return board_; }

 private:
  int kvm_;
  bool board_;
  UniqueFd vm_;
  std::vector<kvm_userspace_memory_region> slots_;
};

/// How a processor starts elsewhere than at the reset vector: interrupts off and, but for real mode, flat segments of
/// 4 GiB; in long mode with paging.
struct StartState {
  enum class Mode { real16, protected32, long64 };
  Mode mode = Mode::long64;
  kvm_regs regs{};                ///< all but RFLAGS
  std::uint64_t gdt = 0;          ///< guest address of its descriptors: 0x10 is code of the mode, 0x18 data
  std::uint16_t gdt_size = 32;    ///< bytes
  std::uint64_t idt = 0;          ///< guest address of its 256 gates; 0: there are none
  std::uint64_t cr3 = 0, cr4 = 0; ///< guest address of page tables for long mode; bits besides PAE
};

/// One processor, from its reset state on.
class Vcpu {
 public:
  enum class End {
    stopped, ///< ask_to_stop()
    halted,  ///< HLT, on a machine without a board
    reset,   ///< triple fault
    failed,  ///< KVM can't go on; see failure()
  };
  Vcpu(const Vm& vm, unsigned number);
  ~Vcpu();
  Vcpu(const Vcpu&) = delete;
  Vcpu& operator=(const Vcpu&) = delete;

  /// Between runs. Errors: ENGINE_FAILED, also when the host's processors lack what `start` wants.
  void start_at(const StartState& start);
  /// Runs the guest in the calling thread; accesses to devices go to the buses, one at a time under `devices`.
  End run(Bus& ports, Bus& mmio, std::mutex& devices);
  /// From another thread, or from a device: run() returns soon.
  void ask_to_stop();
  /// Between runs.
  std::uint64_t rax() const;
  const std::string& failure() const { return failure_; }

 private:
  void port_access(Bus& ports, std::mutex& devices);
  void memory_access(Bus& mmio, std::mutex& devices);
  std::string internal_error() const;

  UniqueFd vcpu_;
  bool board_;
  kvm_run* run_ = nullptr;
  std::size_t run_size_ = 0;
  std::atomic<bool> stop_ = false;
  std::atomic<pthread_t> thread_{};
  std::atomic<bool> running_ = false;
  std::string failure_;
};

} // namespace kvmport::vmm
