// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/kvm_trial.h"

#include "base/sandbox.h"
#include "kvmboot/vmm/vm.h"

#include <algorithm>
#include <fcntl.h>
#include <initializer_list>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace kvmport {
namespace {

using Clock = std::chrono::steady_clock;
using Code = std::initializer_list<unsigned char>;
using Mode = vmm::StartState::Mode;

constexpr std::array<std::string_view, snippet_count> names{
    "int3", "cmpxchg16b", "32-bit paging", "32-bit iret", "fwait", "addps", "xsave", "syscall round trip"};

// Guest memory, all of it below 2 MiB and mapped one to one.
constexpr std::size_t memory_size = 0x200000;
constexpr std::uint64_t gdt_at = 0x1000, idt_at = 0x2000, handler_at = 0x3000, pml4_at = 0x4000, pdpt_at = 0x5000,
                        pd_at = 0x6000, pd32_at = 0x7000, data_at = 0x8000, code_at = 0xc000, user_at = 0x11000,
                        target_at = 0x12000, stack_at = 0x20000;
/// What a snippet leaves in RAX when it came through.
constexpr std::uint32_t magic = 0x600d;

/// A virtual machine with one processor and no device; an access to where there is no memory ends it.
class Machine final : public vmm::Device {
 public:
  explicit Machine(int kvm) : vm_(kvm, false) {
    vm_.map(0, *memory_.slice(0, memory_size), false);
    nowhere_.add(0, UINT64_MAX, *this);
    cpu_.emplace(vm_, 0);
  }

  void put(std::uint64_t at, Code bytes) {
    std::ranges::copy(std::as_bytes(std::span(bytes)), memory_.slice(at, bytes.size())->begin());
  }
  void put64(std::uint64_t at, std::uint64_t value) { memory_.store(at, value); }

  /// The tables of a mode; in long mode SSE is on.
  vmm::StartState start(Mode mode) {
    put64(gdt_at + 0x10, mode == Mode::long64 ? 0x00af9b000000ffffULL : 0x00cf9b000000ffffULL);
    put64(gdt_at + 0x18, 0x00cf93000000ffffULL);
    put64(gdt_at + 0x28, 0x00cff3000000ffffULL); // data of ring 3
    put64(gdt_at + 0x30, 0x00affb000000ffffULL); // 64-bit code of ring 3
    put64(pml4_at, pdpt_at | 7);
    put64(pdpt_at, pd_at | 7);
    put64(pd_at, 0x87); // 2 MiB, present, writable, user
    vmm::StartState state;
    state.mode = mode;
    state.regs.rip = code_at;
    state.regs.rsp = stack_at;
    state.regs.rdi = data_at;
    state.gdt = gdt_at;
    state.gdt_size = 0x38;
    state.idt = idt_at;
    state.cr3 = pml4_at;
    state.cr4 = 0x600; // OSFXSR, OSXMMEXCPT
    return state;
  }
  void enter(const vmm::StartState& state) { cpu_->start_at(state); }
  /// Runs until HLT; RAX, or nothing when something else ended it.
  std::optional<std::uint64_t> run() {
    std::mutex alone;
    if (cpu_->run(nowhere_, nowhere_, alone) != vmm::Vcpu::End::halted)
      return std::nullopt;
    return cpu_->rax();
  }

 private:
  std::uint64_t read(std::uint64_t, unsigned) override {
    cpu_->ask_to_stop();
    return 0;
  }
  void write(std::uint64_t, unsigned, std::uint64_t) override { cpu_->ask_to_stop(); }

  vmm::GuestMemory memory_{memory_size};
  vmm::Vm vm_;
  vmm::Bus nowhere_;
  std::optional<vmm::Vcpu> cpu_;
};

/// Instructions a second (in millions) of a loop of four that counts down, in ever longer runs until about 20 ms have
/// gone; 0 when it does not run.
double rate(int kvm, Mode mode, Code loop) {
  double best = 0;
  try {
    Machine machine(kvm);
    machine.put(code_at, loop);
    vmm::StartState state = machine.start(mode);
    auto left = std::chrono::duration<double>(0.02);
    for (state.regs.rcx = 250; left.count() > 0 && state.regs.rcx < (1ULL << 31); state.regs.rcx *= 2) {
      machine.enter(state);
      const auto began = Clock::now();
      if (!machine.run())
        return 0;
      const std::chrono::duration<double> took = Clock::now() - began;
      best = std::max(best, 4e-6 * static_cast<double>(state.regs.rcx) / std::max(took.count(), 1e-9));
      left -= took;
      if (took * 2 > left)
        break;
    }
  } catch (const Error&) {
    return 0;
  }
  return best;
}

/// Puts the snippet's code in place; how it starts.
vmm::StartState prepare(Machine& m, Snippet snippet) {
  vmm::StartState state =
      m.start(snippet == Snippet::paging32 || snippet == Snippet::iret32 ? Mode::protected32 : Mode::long64);
  switch (snippet) {
  case Snippet::int3:
    m.put64(idt_at + std::uint64_t{3} * 16, 0x00008e0000100000ULL | handler_at); // interrupt gate to 0x10:handler_at
    m.put(handler_at, {0xb8, 0x0d, 0x60, 0, 0, 0xf4});                           // mov eax, magic; hlt
    m.put(code_at, {0xcc, 0xf4});
    break;
  case Snippet::cmpxchg16b: // lock cmpxchg16b [rdi]; mov eax, magic; hlt
    m.put(code_at, {0xf0, 0x48, 0x0f, 0xc7, 0x0f, 0xb8, 0x0d, 0x60, 0, 0, 0xf4});
    break;
  case Snippet::paging32: // cr3 = eax; cr4 |= PSE; cr0 |= PG; jmp; mov eax, magic; hlt
    m.put64(pd32_at, 0x87);
    state.regs.rax = pd32_at;
    m.put(code_at, {0x0f, 0x22, 0xd8, 0x0f, 0x20, 0xe0, 0x83, 0xc8, 0x10, 0x0f, 0x22, 0xe0, 0x0f, 0x20, 0xc0, 0x0d,
                    0,    0,    0,    0x80, 0x0f, 0x22, 0xc0, 0xeb, 0,    0xb8, 0x0d, 0x60, 0,    0,    0xf4});
    break;
  case Snippet::iret32: // pushf; push cs; push target_at; iret / mov eax, magic; hlt
    m.put(code_at, {0x9c, 0x0e, 0x68, 0x00, 0x20, 0x01, 0x00, 0xcf});
    m.put(target_at, {0xb8, 0x0d, 0x60, 0, 0, 0xf4});
    break;
  case Snippet::fwait:
    m.put(code_at, {0x9b, 0xb8, 0x0d, 0x60, 0, 0, 0xf4});
    break;
  case Snippet::addps: // addps xmm0, xmm0
    m.put(code_at, {0x0f, 0x58, 0xc0, 0xb8, 0x0d, 0x60, 0, 0, 0xf4});
    break;
  case Snippet::xsave: // xor edx, edx; mov eax, 1; xsave64 [rdi]
    m.put(code_at, {0x31, 0xd2, 0xb8, 1, 0, 0, 0, 0x48, 0x0f, 0xae, 0x27, 0xb8, 0x0d, 0x60, 0, 0, 0xf4});
    state.cr4 |= 0x40000; // OSXSAVE
    break;
  case Snippet::syscall:
    // Ring 0: wrmsr STAR (SYSCALL to 0x10/0x18, SYSRET to 0x20+16/0x20+8), wrmsr LSTAR = handler_at, sysretq to
    // user_at; ring 3: syscall; ring 0 again: magic unless CPL is 3.
    m.put(code_at,
          {0xb9, 0x81, 0,    0,    0xc0, 0x31, 0xc0, 0xba, 0x10, 0,    0x20, 0,    0x0f, 0x30, 0xb9, 0x82, 0,    0,
           0xc0, 0xb8, 0x00, 0x30, 0,    0,    0x31, 0xd2, 0x0f, 0x30, 0xb9, 0x00, 0x10, 0x01, 0x00, 0x48, 0x0f, 0x07});
    m.put(user_at, {0x0f, 0x05});
    m.put(handler_at, {0x8c, 0xc8, 0xa8, 0x03, 0x75, 0x06, 0xb8, 0x0d, 0x60, 0, 0, 0xf4, 0x31, 0xc0, 0xf4});
    break;
  }
  return state;
}

KvmTrial::Result try_snippet(int kvm, Snippet snippet) {
  try {
    Machine machine(kvm);
    machine.enter(prepare(machine, snippet));
    const auto rax = machine.run();
    return rax && static_cast<std::uint32_t>(*rax) == magic ? KvmTrial::Result::ok : KvmTrial::Result::fails;
  } catch (const Error&) { // KVM refuses the processor's state
    return KvmTrial::Result::not_run;
  }
}

KvmTrial failed(KvmTrial::Step step) {
  KvmTrial trial;
  trial.failed_at = step;
  trial.error = errno;
  return trial;
}

KvmTrial try_all(const std::filesystem::path& device) {
  const UniqueFd kvm(::open(device.c_str(), O_RDWR | O_CLOEXEC));
  if (!kvm)
    return failed(KvmTrial::Step::open);
  if (::ioctl(kvm.get(), KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
    return failed(KvmTrial::Step::not_kvm);
  try {
    const Machine probe(kvm.get());
  } catch (const Error&) {
    return failed(KvmTrial::Step::create);
  }
  KvmTrial trial;
  // inc ax; nop; dec ecx; jnz; hlt, and the same with RAX and RCX
  trial.mips_real16 = rate(kvm.get(), Mode::real16, {0x40, 0x90, 0x66, 0x49, 0x75, 0xfa, 0xf4});
  trial.mips_ring0 = rate(kvm.get(), Mode::long64, {0x48, 0xff, 0xc0, 0x90, 0x48, 0xff, 0xc9, 0x75, 0xf7, 0xf4});
  for (std::size_t i = 0; i < snippet_count; i++)
    trial.snippets[i] = try_snippet(kvm.get(), static_cast<Snippet>(i));
  return trial;
}

} // namespace

std::string_view snippet_name(Snippet snippet) {
  return names[static_cast<std::size_t>(snippet)];
}

KvmTrial try_kvm(const std::filesystem::path& device, std::chrono::milliseconds limit) {
  const ForkedChild child([&](int socket) {
    const KvmTrial found = try_all(device);
    return ::write(socket, &found, sizeof found) == sizeof found ? 0 : 1;
  });
  pollfd polled{child.socket(), POLLIN, 0};
  KvmTrial found;
  if (::poll(&polled, 1, static_cast<int>(limit.count())) == 1 &&
      ::read(child.socket(), &found, sizeof found) == sizeof found)
    return found;
  errno = ETIMEDOUT;
  return failed(KvmTrial::Step::died);
}

} // namespace kvmport
