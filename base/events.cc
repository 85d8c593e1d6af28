// SPDX-License-Identifier: Apache-2.0
#include "base/events.h"

#include "base/error.h"

namespace kvmport {

void StopToken::check() const {
  if (requested())
    throw Error("INTERRUPTED", "stopped on request", {}, "run the same command again to go on");
}

} // namespace kvmport
