// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/kvm_trial.h"

#include "base/file.h"
#include "kvmboot/kvm_cpuid.h"

#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <initializer_list>
#include <linux/kvm.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace kvmport {
namespace {

using Clock = std::chrono::steady_clock;
using Code = std::initializer_list<unsigned char>;

constexpr std::array<std::string_view, snippet_count> names{
    "int3", "cmpxchg16b", "32-bit paging", "32-bit iret", "fwait", "addps", "xsave", "syscall round trip"};

// Guest memory, all of it below 2 MiB and mapped one to one.
constexpr std::size_t memory_size = 0x200000;
constexpr std::uint64_t gdt_at = 0x1000, idt_at = 0x2000, handler_at = 0x3000, pml4_at = 0x4000, pdpt_at = 0x5000,
                        pd_at = 0x6000, pd32_at = 0x7000, data_at = 0x8000, code_at = 0xc000, user_at = 0x11000,
                        target_at = 0x12000, stack_at = 0x20000;
/// What a snippet leaves in RAX when it came through.
constexpr std::uint32_t magic = 0x600d;
constexpr std::uint16_t code64 = 0x08, data = 0x10, user_data = 0x20, code32 = 0x30;

/// A virtual machine with one vCPU. Lives in the child process, whose end frees what is left.
class Machine {
 public:
  explicit Machine(int kvm) : memory_(map(-1, memory_size)) {
    if (memory_ == nullptr)
      return;
    vm_ = UniqueFd(::ioctl(kvm, KVM_CREATE_VM, 0));
    const int run_size = ::ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (!vm_ || run_size <= 0)
      return;
    ::ioctl(vm_.get(), KVM_SET_TSS_ADDR, 0xfeffd000UL); // Intel processors of old want it; the others don't mind
    kvm_userspace_memory_region region{};
    region.memory_size = memory_size;
    region.userspace_addr = reinterpret_cast<std::uintptr_t>(memory_);
    if (::ioctl(vm_.get(), KVM_SET_USER_MEMORY_REGION, &region) != 0)
      return;
    vcpu_ = UniqueFd(::ioctl(vm_.get(), KVM_CREATE_VCPU, 0));
    if (!vcpu_)
      return;
    run_size_ = static_cast<std::size_t>(run_size);
    run_ = reinterpret_cast<kvm_run*>(map(vcpu_.get(), run_size_));
    ready_ = run_ != nullptr && give_cpuid(kvm) && ::ioctl(vcpu_.get(), KVM_GET_SREGS, &initial_) == 0;
  }
  ~Machine() {
    if (run_ != nullptr)
      ::munmap(run_, run_size_);
    if (memory_ != nullptr)
      ::munmap(memory_, memory_size);
  }
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  bool ready() const { return ready_; }
  void put(std::uint64_t at, Code bytes) { std::memcpy(memory_ + at, bytes.begin(), bytes.size()); }
  void put64(std::uint64_t at, std::uint64_t value) { std::memcpy(memory_ + at, &value, sizeof value); }

  bool enter_real16() {
    kvm_sregs s = initial_;
    s.cs.base = 0;
    s.cs.selector = 0;
    return ::ioctl(vcpu_.get(), KVM_SET_SREGS, &s) == 0;
  }
  /// Protected mode, flat 32-bit segments, no paging.
  bool enter_pm32() {
    kvm_sregs s = protected_mode();
    s.cs = segment(code32, 0xb, 0, true, false);
    s.cr0 = 0x11; // PE, ET
    return ::ioctl(vcpu_.get(), KVM_SET_SREGS, &s) == 0;
  }
  /// Long mode, ring 0; `xsave`: with CR4.OSXSAVE.
  bool enter_long64(bool xsave = false) {
    put64(pml4_at, pdpt_at | 7);
    put64(pdpt_at, pd_at | 7);
    put64(pd_at, 0x87); // 2 MiB, present, writable, user
    kvm_sregs s = protected_mode();
    s.cs = segment(code64, 0xb, 0, false, true);
    s.cr3 = pml4_at;
    s.cr4 = 0x620U | (xsave ? 0x40000U : 0U); // PAE, OSFXSR, OSXMMEXCPT
    s.cr0 = 0x80000013U;                      // PG, ET, MP, PE
    s.efer = 0x501;                           // LMA, LME, SCE
    return ::ioctl(vcpu_.get(), KVM_SET_SREGS, &s) == 0;
  }
  /// Runs from code_at until HLT; false for anything else. RAX is `rax` before and after.
  bool run(std::uint64_t& rax, std::uint64_t rcx) {
    kvm_regs regs{};
    regs.rip = code_at;
    regs.rflags = 2;
    regs.rsp = stack_at;
    regs.rax = rax;
    regs.rcx = rcx;
    regs.rdi = data_at;
    regs.r11 = 2;
    if (::ioctl(vcpu_.get(), KVM_SET_REGS, &regs) != 0)
      return false;
    while (::ioctl(vcpu_.get(), KVM_RUN, 0) != 0)
      if (errno != EINTR && errno != EAGAIN)
        return false;
    const bool halted = run_->exit_reason == KVM_EXIT_HLT;
    if (::ioctl(vcpu_.get(), KVM_GET_REGS, &regs) != 0)
      return false;
    rax = regs.rax;
    return halted;
  }

 private:
  static std::byte* map(int fd, std::size_t size) {
    void* p = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, fd, 0);
    return p == MAP_FAILED ? nullptr : static_cast<std::byte*>(p);
  }
  static kvm_segment segment(std::uint16_t selector, std::uint8_t type, std::uint8_t dpl, bool db, bool l) {
    kvm_segment s{};
    s.limit = 0xffffffff;
    s.selector = selector;
    s.type = type;
    s.present = 1;
    s.dpl = dpl;
    s.db = db ? 1 : 0;
    s.s = 1;
    s.l = l ? 1 : 0;
    s.g = 1;
    return s;
  }
  kvm_sregs protected_mode() {
    put64(gdt_at + code64, 0x00af9b000000ffffULL);
    put64(gdt_at + data, 0x00cf93000000ffffULL);
    put64(gdt_at + user_data, 0x00cff3000000ffffULL);
    put64(gdt_at + 0x28, 0x00affb000000ffffULL); // 64-bit code of ring 3
    put64(gdt_at + code32, 0x00cf9b000000ffffULL);
    kvm_sregs s = initial_;
    s.gdt.base = gdt_at;
    s.gdt.limit = 0x37;
    s.idt.base = idt_at;
    s.idt.limit = 0xfff;
    s.ds = s.es = s.fs = s.gs = s.ss = segment(data, 0x3, 0, true, false);
    s.tr.type = 0xb;
    s.tr.present = 1;
    s.tr.limit = 0x67;
    return s;
  }
  bool give_cpuid(int kvm) const {
    KvmCpuid table;
    return table.get_supported(kvm) && table.set(vcpu_.get());
  }

  std::byte* memory_;
  UniqueFd vm_, vcpu_;
  kvm_run* run_ = nullptr;
  std::size_t run_size_ = 0;
  kvm_sregs initial_{};
  bool ready_ = false;
};

/// Instructions a second (in millions) of a loop of four, in ever longer runs until about 20 ms have gone.
double rate(Machine& machine) {
  double best = 0;
  auto left = std::chrono::duration<double>(0.02);
  for (std::uint64_t rounds = 250; left.count() > 0 && rounds < (1ULL << 31); rounds *= 2) {
    const auto start = Clock::now();
    std::uint64_t rax = 0;
    if (!machine.run(rax, rounds))
      return 0;
    const std::chrono::duration<double> took = Clock::now() - start;
    best = std::max(best, 4e-6 * static_cast<double>(rounds) / std::max(took.count(), 1e-9));
    left -= took;
    if (took * 2 > left)
      break;
  }
  return best;
}

double rate_real16(int kvm) {
  Machine m(kvm);
  if (!m.ready() || !m.enter_real16())
    return 0;
  m.put(code_at, {0x40, 0x90, 0x66, 0x49, 0x75, 0xfa, 0xf4}); // inc ax; nop; dec ecx; jnz; hlt
  return rate(m);
}

double rate_ring0(int kvm) {
  Machine m(kvm);
  if (!m.ready() || !m.enter_long64())
    return 0;
  m.put(code_at, {0x48, 0xff, 0xc0, 0x90, 0x48, 0xff, 0xc9, 0x75, 0xf7, 0xf4}); // inc rax; nop; dec rcx; jnz; hlt
  return rate(m);
}

/// Puts the snippet's code in place and its mode on; `rax` may be preset.
bool prepare(Machine& m, Snippet snippet, std::uint64_t& rax) {
  switch (snippet) {
  case Snippet::int3:
    m.put64(idt_at + std::uint64_t{3} * 16, 0x00008e0000080000ULL | handler_at); // interrupt gate to code64:handler_at
    m.put(handler_at, {0xb8, 0x0d, 0x60, 0, 0, 0xf4});                           // mov eax, magic; hlt
    m.put(code_at, {0xcc, 0xf4});
    return m.enter_long64();
  case Snippet::cmpxchg16b: // lock cmpxchg16b [rdi]; mov eax, magic; hlt
    m.put(code_at, {0xf0, 0x48, 0x0f, 0xc7, 0x0f, 0xb8, 0x0d, 0x60, 0, 0, 0xf4});
    return m.enter_long64();
  case Snippet::paging32: // cr3 = eax; cr4 |= PSE; cr0 |= PG; jmp; mov eax, magic; hlt
    m.put64(pd32_at, 0x87);
    rax = pd32_at;
    m.put(code_at, {0x0f, 0x22, 0xd8, 0x0f, 0x20, 0xe0, 0x83, 0xc8, 0x10, 0x0f, 0x22, 0xe0, 0x0f, 0x20, 0xc0, 0x0d,
                    0,    0,    0,    0x80, 0x0f, 0x22, 0xc0, 0xeb, 0,    0xb8, 0x0d, 0x60, 0,    0,    0xf4});
    return m.enter_pm32();
  case Snippet::iret32: // pushf; push cs; push target_at; iret / mov eax, magic; hlt
    m.put(code_at, {0x9c, 0x0e, 0x68, 0x00, 0x20, 0x01, 0x00, 0xcf});
    m.put(target_at, {0xb8, 0x0d, 0x60, 0, 0, 0xf4});
    return m.enter_pm32();
  case Snippet::fwait:
    m.put(code_at, {0x9b, 0xb8, 0x0d, 0x60, 0, 0, 0xf4});
    return m.enter_long64();
  case Snippet::addps: // addps xmm0, xmm0
    m.put(code_at, {0x0f, 0x58, 0xc0, 0xb8, 0x0d, 0x60, 0, 0, 0xf4});
    return m.enter_long64();
  case Snippet::xsave: // xor edx, edx; mov eax, 1; xsave64 [rdi]
    m.put(code_at, {0x31, 0xd2, 0xb8, 1, 0, 0, 0, 0x48, 0x0f, 0xae, 0x27, 0xb8, 0x0d, 0x60, 0, 0, 0xf4});
    return m.enter_long64(true);
  case Snippet::syscall:
    // Ring 0: wrmsr STAR (SYSCALL to 0x08/0x10, SYSRET to 0x18+16/0x18+8), wrmsr LSTAR = handler_at, sysretq to
    // user_at; ring 3: syscall; ring 0 again: magic unless CPL is 3.
    m.put(code_at,
          {0xb9, 0x81, 0,    0,    0xc0, 0x31, 0xc0, 0xba, 0x08, 0,    0x18, 0,    0x0f, 0x30, 0xb9, 0x82, 0,    0,
           0xc0, 0xb8, 0x00, 0x30, 0,    0,    0x31, 0xd2, 0x0f, 0x30, 0xb9, 0x00, 0x10, 0x01, 0x00, 0x48, 0x0f, 0x07});
    m.put(user_at, {0x0f, 0x05});
    m.put(handler_at, {0x8c, 0xc8, 0xa8, 0x03, 0x75, 0x06, 0xb8, 0x0d, 0x60, 0, 0, 0xf4, 0x31, 0xc0, 0xf4});
    return m.enter_long64();
  }
  return false;
}

KvmTrial::Result try_snippet(int kvm, Snippet snippet) {
  Machine m(kvm);
  std::uint64_t rax = 0;
  if (!m.ready() || !prepare(m, snippet, rax))
    return KvmTrial::Result::not_run;
  return m.run(rax, 0) && static_cast<std::uint32_t>(rax) == magic ? KvmTrial::Result::ok : KvmTrial::Result::fails;
}

/// In the child: no memory is allocated, nothing is thrown.
void try_all(const char* device, KvmTrial& trial) {
  const UniqueFd kvm(::open(device, O_RDWR | O_CLOEXEC));
  trial.error = 0;
  if (!kvm) {
    trial.failed_at = KvmTrial::Step::open;
    trial.error = errno;
    return;
  }
  if (::ioctl(kvm.get(), KVM_GET_API_VERSION, 0) != KVM_API_VERSION) {
    trial.failed_at = KvmTrial::Step::not_kvm;
    trial.error = errno;
    return;
  }
  if (!Machine(kvm.get()).ready()) {
    trial.failed_at = KvmTrial::Step::create;
    trial.error = errno;
    return;
  }
  trial.mips_real16 = rate_real16(kvm.get());
  trial.mips_ring0 = rate_ring0(kvm.get());
  for (std::size_t i = 0; i < snippet_count; i++)
    trial.snippets[i] = try_snippet(kvm.get(), static_cast<Snippet>(i));
  trial.failed_at = KvmTrial::Step::done;
}

} // namespace

std::string_view snippet_name(Snippet snippet) {
  return names[static_cast<std::size_t>(snippet)];
}

KvmTrial try_kvm(const std::filesystem::path& device, std::chrono::milliseconds limit) {
  KvmTrial trial;
  trial.failed_at = KvmTrial::Step::died;
  std::array<int, 2> fds{};
  if (::pipe2(fds.data(), O_CLOEXEC) != 0) {
    trial.error = errno;
    return trial;
  }
  const UniqueFd from(fds[0]);
  UniqueFd to(fds[1]);
  const pid_t pid = ::fork();
  if (pid < 0) {
    trial.error = errno;
    return trial;
  }
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    KvmTrial found;
    try_all(device.c_str(), found);
    ::_exit(::write(to.get(), &found, sizeof found) == sizeof found ? 0 : 1);
  }
  to.reset();
  pollfd polled{from.get(), POLLIN, 0};
  KvmTrial found;
  if (::poll(&polled, 1, static_cast<int>(limit.count())) == 1 &&
      ::read(from.get(), &found, sizeof found) == sizeof found)
    trial = found;
  else
    trial.error = ETIMEDOUT;
  ::kill(pid, SIGKILL);
  while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
  return trial;
}

} // namespace kvmport
