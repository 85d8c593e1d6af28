// SPDX-License-Identifier: Apache-2.0
#include "libconvert/copy/swap_free.h"

#include <algorithm>
#include <array>

namespace kvmport {
namespace {

using namespace std::string_view_literals;

constexpr std::uint64_t page = 4096;
constexpr std::array swap_signatures{"SWAPSPACE2"sv, "SWAP-SPACE"sv};
constexpr std::array suspend_signatures{"S1SUSPEND"sv, "S2SUSPEND"sv, "ULSUSPEND"sv, "LINHIB0001"sv,
                                        "\xed\xc3\x02\xe9\x98\x56\xe5\x0c"sv};

bool one_of(std::string_view text, auto& list) {
  return std::any_of(list.begin(), list.end(), [&](std::string_view one) { return text.starts_with(one); });
}

std::vector<Range> read(const Part& part, ByteSpan header) {
  part.require_content("swap");
  require(as_text(header.subspan(page - 10, 10)) == swap_signatures[0], "it is of an old kind");
  require(load_le<std::uint32_t>(header, 1024) == 1, "its version is unknown");
  const std::uint64_t last = load_le<std::uint32_t>(header, 1028);
  require(last != 0 && last < part.size() / page, "it is larger than its partition");
  FreeRanges free;
  free.add({part.range().offset + page, last * page});
  return free.take();
}

} // namespace

FreeBlocks read_swap_free(const Image& image, Range range) {
  const Part part(image, range);
  // The signature ends the first page: a machine of another kind has larger pages.
  for (std::uint64_t size = page; size <= (64U << 10); size *= 2) {
    if (size > range.length)
      break;
    const Bytes end = part.read(size - 10, 10);
    if (one_of(as_text(end), suspend_signatures))
      return {true, {}, "swap, copied whole: a hibernated system waits in it", true};
    if (!one_of(as_text(end), swap_signatures))
      continue;
    return judge_free_blocks("swap", [&] {
      require(size == page, "its pages are not of 4 KiB");
      return read(part, part.read(0, page));
    });
  }
  return {};
}

} // namespace kvmport
