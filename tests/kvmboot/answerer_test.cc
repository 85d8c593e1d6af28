// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/answerer.h"

#include <gtest/gtest.h>

namespace kvmport {
namespace {

TEST(Answerer, TypesAtMostAsOftenAsAllowed) {
  Answerer answerer({{"[Pp]assphrase", "secret\n", 2}});
  EXPECT_EQ(answerer.feed("Enter pass"), "");
  EXPECT_EQ(answerer.feed("phrase: "), "secret\n");
  EXPECT_EQ(answerer.feed("\r\nwrong\r\n"), "");
  EXPECT_EQ(answerer.feed("Enter passphrase: "), "secret\n");
  EXPECT_EQ(answerer.feed("\r\nEnter passphrase: "), "");
}

} // namespace
} // namespace kvmport
