// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/vmm/vm.h"

#include "base/error.h"

#include <algorithm>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace kvmport::vmm {
namespace {

// <linux/kvm.h> declares kvm_cpuid2 and kvm_irq_routing with flexible arrays, which have another size in C++ than in C,
// and the size is part of the request's number: with it the kernel refuses the calls (EINVAL). So both stand here anew.
constexpr unsigned long get_supported_cpuid = _IOWR(KVMIO, 0x05, std::uint64_t);
constexpr unsigned long set_cpuid = _IOW(KVMIO, 0x90, std::uint64_t);
constexpr unsigned long set_gsi_routing = _IOW(KVMIO, 0x6a, std::uint64_t);
constexpr int wake_signal = SIGUSR1;

template <typename... Argument> int call(int fd, unsigned long request, const char* name, Argument... argument) {
  const int result = ::ioctl(fd, request, argument...);
  if (result < 0)
    throw Error("ENGINE_FAILED", std::string("KVM refuses ") + name, std::strerror(errno));
  return result;
}

void do_nothing(int) {}

/// What the host offers, as the guest's CPUID; leaf 1 and 0xb carry the number of the processor.
void give_cpuid(int kvm, int vcpu, unsigned number) {
  struct {
    std::uint32_t nent = 256, padding = 0;
    kvm_cpuid_entry2 entries[256] = {};
  } table;
  call(kvm, get_supported_cpuid, "KVM_GET_SUPPORTED_CPUID", &table);
  for (kvm_cpuid_entry2& entry : std::span(table.entries).first(std::min(table.nent, 256U)))
    if (entry.function == 1)
      entry.ebx = (entry.ebx & 0x00ffffff) | number << 24;
    else if (entry.function == 0xb)
      entry.edx = number;
  call(vcpu, set_cpuid, "KVM_SET_CPUID2", &table);
}

/// Interrupt N is pin N of the 8259s and of the IOAPIC, as KVM has it by itself; but the timer is pin 2 of the IOAPIC,
/// as on every PC and in the MADT, where KVM has pin 0.
void route_interrupts(int vm) {
  struct {
    std::uint32_t nr = 0, flags = 0;
    kvm_irq_routing_entry entries[15 + 23] = {};
  } table;
  const auto add = [&](unsigned irq, unsigned chip, unsigned pin) {
    kvm_irq_routing_entry& entry = table.entries[table.nr++];
    entry.gsi = irq;
    entry.type = KVM_IRQ_ROUTING_IRQCHIP;
    entry.u.irqchip = {chip, pin};
  };
  for (unsigned irq = 0; irq < 24; irq++) {
    if (irq == 2) // the second 8259
      continue;
    if (irq < 16)
      add(irq, irq < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, irq % 8);
    add(irq, KVM_IRQCHIP_IOAPIC, irq == 0 ? 2 : irq);
  }
  call(vm, set_gsi_routing, "KVM_SET_GSI_ROUTING", &table);
}

} // namespace

UniqueFd open_kvm(const std::filesystem::path& device) {
  UniqueFd kvm(::open(device.c_str(), O_RDWR | O_CLOEXEC));
  if (!kvm)
    throw Error("ENGINE_UNAVAILABLE", "the built-in engine needs " + device.string(), std::strerror(errno),
                "use --engine qemu");
  return kvm;
}

std::vector<unsigned long> kvm_requests() {
  return {KVM_CREATE_VM,
          KVM_SET_IDENTITY_MAP_ADDR,
          KVM_SET_TSS_ADDR,
          KVM_CREATE_IRQCHIP,
          KVM_CREATE_PIT2,
          KVM_SET_USER_MEMORY_REGION,
          KVM_IRQ_LINE,
          KVM_SIGNAL_MSI,
          KVM_GET_VCPU_MMAP_SIZE,
          KVM_CREATE_VCPU,
          KVM_RUN,
          KVM_GET_REGS,
          KVM_SET_REGS,
          KVM_GET_SREGS,
          KVM_SET_SREGS,
          get_supported_cpuid,
          set_cpuid,
          set_gsi_routing};
}

Vm::Vm(int kvm, bool board) : kvm_(kvm), board_(board), vm_(call(kvm, KVM_CREATE_VM, "KVM_CREATE_VM", 0)) {
  std::uint64_t identity_map = kvm_pages_at;
  call(vm_.get(), KVM_SET_IDENTITY_MAP_ADDR, "KVM_SET_IDENTITY_MAP_ADDR", &identity_map);
  call(vm_.get(), KVM_SET_TSS_ADDR, "KVM_SET_TSS_ADDR", kvm_pages_at + 0x1000);
  if (!board)
    return;
  call(vm_.get(), KVM_CREATE_IRQCHIP, "KVM_CREATE_IRQCHIP", 0);
  route_interrupts(vm_.get());
  kvm_pit_config pit{};
  pit.flags = KVM_PIT_SPEAKER_DUMMY;
  call(vm_.get(), KVM_CREATE_PIT2, "KVM_CREATE_PIT2", &pit);
}

unsigned Vm::map(std::uint64_t address, std::span<const std::byte> memory, bool read_only) {
  kvm_userspace_memory_region region{};
  region.slot = static_cast<std::uint32_t>(slots_.size());
  region.flags = read_only ? KVM_MEM_READONLY : 0;
  region.guest_phys_addr = address;
  region.memory_size = memory.size();
  region.userspace_addr = reinterpret_cast<std::uintptr_t>(memory.data());
  slots_.push_back(region);
  show(region.slot, true);
  return region.slot;
}

void Vm::show(unsigned slot, bool visible) {
  kvm_userspace_memory_region region = slots_.at(slot);
  if (!visible)
    region.memory_size = 0;
  call(vm_.get(), KVM_SET_USER_MEMORY_REGION, "KVM_SET_USER_MEMORY_REGION", &region);
}

void Vm::set_irq(unsigned irq, bool level) const {
  kvm_irq_level line{};
  line.irq = irq;
  line.level = level ? 1 : 0;
  ::ioctl(vm_.get(), KVM_IRQ_LINE, &line);
}

void Vm::send_msi(std::uint64_t address, std::uint32_t data) const {
  kvm_msi message{};
  message.address_lo = static_cast<std::uint32_t>(address);
  message.address_hi = static_cast<std::uint32_t>(address >> 32);
  message.data = data;
  ::ioctl(vm_.get(), KVM_SIGNAL_MSI, &message);
}

Vcpu::Vcpu(const Vm& vm, unsigned number) : board_(vm.board()) {
  struct sigaction action {};
  action.sa_handler = do_nothing; // it only has to end KVM_RUN
  ::sigaction(wake_signal, &action, nullptr);
  run_size_ = static_cast<std::size_t>(call(vm.kvm(), KVM_GET_VCPU_MMAP_SIZE, "KVM_GET_VCPU_MMAP_SIZE", 0));
  vcpu_ = UniqueFd(call(vm.fd(), KVM_CREATE_VCPU, "KVM_CREATE_VCPU", number));
  void* at = ::mmap(nullptr, run_size_, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_.get(), 0);
  if (at == MAP_FAILED)
    throw Error("ENGINE_FAILED", "can't map a processor of KVM", std::strerror(errno));
  run_ = static_cast<kvm_run*>(at);
  give_cpuid(vm.kvm(), vcpu_.get(), number);
}

Vcpu::~Vcpu() {
  if (run_ != nullptr)
    ::munmap(run_, run_size_);
}

void Vcpu::start_at(const StartState& start) {
  const bool long64 = start.mode == StartState::Mode::long64;
  kvm_sregs s{};
  call(vcpu_.get(), KVM_GET_SREGS, "KVM_GET_SREGS", &s);
  const auto segment = [](std::uint16_t selector, std::uint8_t type, bool is32) {
    kvm_segment flat{};
    flat.limit = 0xffffffff;
    flat.selector = selector;
    flat.type = type;
    flat.present = flat.s = flat.g = 1;
    flat.db = is32 ? 1 : 0;
    return flat;
  };
  if (start.mode == StartState::Mode::real16) {
    s.cs.base = s.cs.selector = 0;
  } else {
    s.cs = segment(0x10, 0xb, !long64);
    s.cs.l = long64 ? 1 : 0;
    s.ds = s.es = s.fs = s.gs = s.ss = segment(0x18, 0x3, true);
    s.tr.type = 0xb; // a busy 32-bit TSS, as PVH wants it
    s.tr.present = 1;
    s.tr.limit = 0x67;
    s.gdt.base = start.gdt;
    s.gdt.limit = start.gdt_size - 1;
    s.idt.base = start.idt;
    s.idt.limit = start.idt != 0 ? 256 * 16 - 1 : 0;
    s.cr0 = long64 ? 0x80000013 : 0x11; // PG, MP, ET, PE
    s.cr3 = long64 ? start.cr3 : 0;
    s.cr4 = long64 ? 0x20 | start.cr4 : 0; // PAE
    s.efer = long64 ? 0x501 : 0;           // LMA, LME, SCE
  }
  call(vcpu_.get(), KVM_SET_SREGS, "KVM_SET_SREGS", &s);
  kvm_regs regs = start.regs;
  regs.rflags = 2;
  call(vcpu_.get(), KVM_SET_REGS, "KVM_SET_REGS", &regs);
}

Vcpu::End Vcpu::run(Bus& ports, Bus& mmio, std::mutex& devices) {
  thread_ = ::pthread_self();
  running_ = true;
  while (!stop_) {
    if (::ioctl(vcpu_.get(), KVM_RUN, 0) != 0) {
      // A signal; or a processor that the guest has not started yet. There is no new exit reason then.
      if (errno == EINTR || errno == EAGAIN)
        continue;
      failure_ = std::string("KVM_RUN: ") + std::strerror(errno);
      return End::failed;
    }
    if (stop_)
      break;
    switch (run_->exit_reason) {
    case KVM_EXIT_IO:
      port_access(ports, devices);
      break;
    case KVM_EXIT_MMIO:
      memory_access(mmio, devices);
      break;
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
      break;
    case KVM_EXIT_HLT: // with the interrupt controller in the kernel it waits there
      if (!board_)
        return End::halted;
      break;
    case KVM_EXIT_SHUTDOWN:
      return End::reset;
    case KVM_EXIT_INTERNAL_ERROR:
      failure_ = internal_error();
      return End::failed;
    default:
      failure_ = fmt::format("KVM stopped the processor (exit reason {})", run_->exit_reason);
      return End::failed;
    }
  }
  return End::stopped;
}

/// "… can't emulate BYTES at ADDRESS": a limit of the host's KVM, no fault of the guest.
std::string Vcpu::internal_error() const {
  const auto& failure = run_->emulation_failure;
  kvm_regs regs{};
  ::ioctl(vcpu_.get(), KVM_GET_REGS, &regs);
  if (failure.suberror != KVM_INTERNAL_ERROR_EMULATION || failure.ndata < 3 ||
      (failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) == 0)
    return fmt::format("the host's KVM can't run the guest's code at {:#x} (internal error {})", regs.rip,
                       failure.suberror);
  const std::size_t size = std::min<std::size_t>(failure.insn_size, sizeof failure.insn_bytes);
  return fmt::format("the host's KVM can't emulate {:02x} at {:#x}",
                     fmt::join(failure.insn_bytes, failure.insn_bytes + size, " "), regs.rip);
}

std::uint64_t Vcpu::rax() const {
  kvm_regs regs{};
  call(vcpu_.get(), KVM_GET_REGS, "KVM_GET_REGS", &regs);
  return regs.rax;
}

void Vcpu::ask_to_stop() {
  stop_ = true;
  run_->immediate_exit = 1;
  if (running_)
    ::pthread_kill(thread_, wake_signal);
}

void Vcpu::port_access(Bus& ports, std::mutex& devices) {
  const auto& io = run_->io;
  auto* data = reinterpret_cast<std::byte*>(run_) + io.data_offset;
  const std::lock_guard lock(devices);
  for (std::uint32_t i = 0; i < io.count; i++, data += io.size) {
    std::uint64_t value = 0;
    if (io.direction == KVM_EXIT_IO_OUT) {
      std::memcpy(&value, data, io.size);
      ports.write(io.port, io.size, value);
    } else {
      value = ports.read(io.port, io.size);
      std::memcpy(data, &value, io.size);
    }
  }
}

void Vcpu::memory_access(Bus& mmio, std::mutex& devices) {
  auto& access = run_->mmio;
  std::uint64_t value = 0;
  const std::lock_guard lock(devices);
  if (access.is_write != 0) {
    std::memcpy(&value, access.data, std::min<std::size_t>(access.len, sizeof value)); // the rest is of older accesses
    mmio.write(access.phys_addr, access.len, value);
  } else {
    value = mmio.read(access.phys_addr, access.len);
    std::memcpy(access.data, &value, sizeof value);
  }
}

} // namespace kvmport::vmm
