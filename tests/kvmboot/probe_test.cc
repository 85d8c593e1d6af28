// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"
#include "kvmboot/kvm_trial.h"
#include "kvmboot/probe.h"
#include "kvmboot/vmm/vm.h"

#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

namespace kvmport {
namespace {

using testing::Contains;
using testing::HasSubstr;

KvmTrial perfect() {
  KvmTrial trial;
  trial.mips_real16 = trial.mips_ring0 = 3000;
  for (auto& s : trial.snippets)
    s = KvmTrial::Result::ok;
  return trial;
}

TEST(Classify, FullNeedsSpeedAndEverySnippet) {
  EXPECT_EQ(classify(perfect(), "/dev/kvm").kvm, Probe::Class::full);
  KvmTrial slow = perfect();
  slow.mips_ring0 = 1.7;
  EXPECT_EQ(classify(slow, "/dev/kvm").kvm, Probe::Class::emulated);
  for (std::size_t i = 0; i < snippet_count; i++) {
    KvmTrial broken = perfect();
    broken.snippets[i] = KvmTrial::Result::fails;
    const Probe probe = classify(broken, "/dev/kvm");
    EXPECT_EQ(probe.kvm, Probe::Class::emulated);
    EXPECT_THAT(probe.reasons, Contains(HasSubstr(std::string(snippet_name(static_cast<Snippet>(i))))));
  }
}

TEST(Classify, WhatAProcessorLacksDoesNotCount) {
  KvmTrial old = perfect();
  old.snippets[static_cast<std::size_t>(Snippet::xsave)] = KvmTrial::Result::not_run;
  EXPECT_EQ(classify(old, "/dev/kvm").kvm, Probe::Class::full);
}

TEST(Probe, MissingDeviceIsNoneAndSaysSo) {
  const Probe probe = probe_kvm("/nonexistent/kvm");
  EXPECT_EQ(probe.kvm, Probe::Class::none);
  EXPECT_THAT(probe.reasons, Contains(HasSubstr("No such file")));
  EXPECT_GT(probe.time_scale(), 1.0);
}

TEST(Probe, AnotherDeviceIsNotTakenForKvm) {
  EXPECT_EQ(probe_kvm("/dev/null").kvm, Probe::Class::none);
  EXPECT_THAT(probe_kvm("/dev/null").reasons, Contains(HasSubstr("not a KVM device")));
}

TEST(Probe, NoPermissionIsNone) {
  if (::geteuid() == 0)
    EXPECT_THAT(classify({KvmTrial::Step::open, EACCES}, "/dev/kvm").reasons, Contains(HasSubstr("Permission denied")));
  else
    EXPECT_THAT(probe_kvm("/dev/mem").reasons, Contains(HasSubstr("Permission denied")));
}

/// In C++ the kernel's own declaration of CPUID has another size, with which the call is refused.
TEST(Probe, ProcessorTakesTheHostsCpuid) {
  const UniqueFd kvm(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
  if (!kvm)
    GTEST_SKIP() << "there is no /dev/kvm";
  const vmm::Vm vm(kvm.get(), false);
  EXPECT_NO_THROW(vmm::Vcpu(vm, 0));
}

TEST(Probe, ThisHost) {
  const Probe& probe = host_probe();
  std::string all = "this host's KVM is \"" + to_string(probe.kvm) + "\"";
  for (const auto& reason : probe.reasons)
    all += "; " + reason;
  std::printf("%s\n", all.c_str());
  ASSERT_FALSE(probe.reasons.empty());
  EXPECT_EQ(&probe, &host_probe()) << "probed once";
  switch (probe.kvm) {
  case Probe::Class::full:
    EXPECT_GE(probe.mips_ring0, 100);
    break;
  case Probe::Class::emulated:
    EXPECT_GT(probe.mips_ring0, 0);
    break;
  case Probe::Class::none:
    EXPECT_EQ(probe.mips_ring0, 0);
    break;
  }
  // A host that can't do this can't run a Linux guest, whatever its device node says.
  const KvmTrial trial = try_kvm("/dev/kvm", std::chrono::seconds(2));
  const auto syscall = trial.snippets[static_cast<std::size_t>(Snippet::syscall)];
  EXPECT_EQ(probe.kvm == Probe::Class::full, syscall == KvmTrial::Result::ok && trial.mips_ring0 >= 100);
}

std::string refusal(const std::string& wish) {
  NullSink sink;
  try {
    make_engine(wish, sink);
  } catch (const Error& e) {
    return e.code();
  }
  return {};
}

TEST(MakeEngine, ChoosesByTheProbe) {
  NullSink sink;
  const auto engine = make_engine("auto", sink);
  EXPECT_EQ(engine->name(), host_probe().kvm == Probe::Class::full ? "qemu-kvm" : "qemu-tcg");
  EXPECT_FALSE(engine->reason().empty());
}

TEST(MakeEngine, BuiltInEngineNeedsKvm) {
  NullSink sink;
  if (host_probe().kvm == Probe::Class::none)
    EXPECT_EQ(refusal("kvm"), "ENGINE_UNAVAILABLE");
  else
    EXPECT_EQ(make_engine("kvm", sink)->name(), "kvm");
}

TEST(MakeEngine, RefusesByName) {
  EXPECT_EQ(refusal("xen"), "ENGINE_UNKNOWN");
}

TEST(MakeEngine, MissingQemuIsRefused) {
  const char* before = std::getenv("PATH");
  const std::string path = before != nullptr ? before : "";
  ::setenv("PATH", "/nonexistent", 1);
  const std::string code = refusal("auto");
  ::setenv("PATH", path.c_str(), 1);
  EXPECT_EQ(code, "ENGINE_UNAVAILABLE");
}

} // namespace
} // namespace kvmport
