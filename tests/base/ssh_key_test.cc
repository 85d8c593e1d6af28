// SPDX-License-Identifier: Apache-2.0
#include "base/ssh_key.h"

#include <gtest/gtest.h>

namespace kvmport {
namespace {

TEST(SshKey, FingerprintsAreThoseOfOpenSsh) {
  EXPECT_EQ(ssh_fingerprint("AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"),
            "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"); // github.com's, as it publishes it
  EXPECT_EQ(ssh_fingerprint("no base64!"), std::nullopt);
}

} // namespace
} // namespace kvmport
