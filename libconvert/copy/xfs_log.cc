// SPDX-License-Identifier: Apache-2.0
#include "libconvert/copy/xfs_log.h"

#include <algorithm>

namespace kvmport {
namespace {

constexpr std::uint64_t basic_block = 512;
constexpr std::uint64_t piece = 1U << 20;
constexpr std::uint64_t longest_log = 1U << 31;      // XFS_MAX_LOG_BYTES
constexpr std::uint32_t header_magic = 0xfeedbabe;   // XLOG_HEADER_MAGIC_NUM
constexpr std::uint32_t longest_record = 256U << 10; // XLOG_MAX_RECORD_BSIZE
constexpr std::uint32_t header_covers = 32U << 10;   // XLOG_HEADER_CYCLE_SIZE: what one header's cycle data covers
constexpr std::uint8_t unmount_transaction = 0x20;   // XLOG_UNMOUNT_TRANS
constexpr std::uint8_t log_client = 0xaa;            // XFS_LOG
constexpr const char* not_clean = "its log is not clean, so its maps may be old";

struct Head {
  std::uint64_t block = 0; ///< where the next record goes
  std::uint32_t cycle = 0; ///< of the record before it
};

/// From the head on cycle numbers are lower by one, or 0 where nothing was written since the log was made anew
/// (xfs_repair leaves such places); when all are equal, the newest record ends at the end of the log. Anything else is
/// what writes under way leave.
Head find_head(const Part& part, const XfsLog& log) {
  std::uint32_t first = 0;
  Head head;
  bool fell = false;
  for (std::uint64_t at = 0; at < log.length; at += piece) {
    const Bytes bytes = part.read(log.offset + at, std::min(piece, log.length - at));
    for (std::uint64_t i = 0; i < bytes.size(); i += basic_block) {
      auto cycle = load_be<std::uint32_t>(bytes, i);
      if (cycle == header_magic)
        cycle = load_be<std::uint32_t>(bytes, i + 4);
      if (at + i == 0)
        first = cycle;
      if (!fell && cycle != first) {
        fell = true;
        head.block = (at + i) / basic_block;
      }
      require(!fell || cycle == 0 || cycle == first - 1, not_clean);
    }
  }
  require(first != 0, "its log was never written");
  head.cycle = first;
  return head;
}

std::uint64_t header_blocks(ByteSpan header) {
  const auto version = load_be<std::uint32_t>(header, 8);
  const std::uint64_t size = load_be<std::uint32_t>(header, 320);
  require(version == 1 || version == 2, not_clean);
  require(size <= longest_record, not_clean);
  return version == 2 && size > header_covers ? div_round_up(size, header_covers) : 1;
}

} // namespace

void require_clean_xfs_log(const Part& part, const XfsLog& log) {
  require(log.length >= 16 * basic_block && log.length <= longest_log && log.length % basic_block == 0 &&
              part.holds(log.offset, log.length),
          "its log is impossible");
  const Head head = find_head(part, log);
  const std::uint64_t blocks = log.length / basic_block;
  const std::uint64_t end = head.block == 0 ? blocks : head.block;
  // The newest header before the head: a record has at most 8 header blocks and 512 of data. An unmount record that
  // goes over the end of the log is not looked for.
  const std::uint64_t reach = std::min<std::uint64_t>(end, longest_record / basic_block + 8);
  const Bytes tail = part.read(log.offset + (end - reach) * basic_block, reach * basic_block);
  std::uint64_t at = reach;
  do {
    require(at > 0, not_clean);
    at--;
  } while (load_be<std::uint32_t>(tail, at * basic_block) != header_magic);
  const ByteSpan header = ByteSpan(tail).subspan(at * basic_block, basic_block);
  const std::uint64_t position = end - reach + at, headers = header_blocks(header);
  const std::uint64_t length = load_be<std::uint32_t>(header, 12);
  const std::uint64_t lsn = load_be<std::uint64_t>(header, 16);
  require(load_be<std::uint32_t>(header, 4) == head.cycle && lsn == (std::uint64_t{head.cycle} << 32 | position),
          not_clean);
  require(std::ranges::equal(header.subspan(304, 16), ByteSpan(log.uuid)), "its log is another filesystem's");
  require(load_be<std::uint32_t>(header, 300) != 0 && load_be<std::uint32_t>(header, 40) == 1, not_clean);
  require(length != 0 && length <= longest_record && length % basic_block == 0 &&
              at + headers + length / basic_block == reach,
          not_clean);
  // The first word of the data is its cycle number; the operation's flags stand behind it.
  const ByteSpan operation = ByteSpan(tail).subspan((at + headers) * basic_block, basic_block);
  require(load_le<std::uint8_t>(operation, 8) == log_client &&
              load_le<std::uint8_t>(operation, 9) == unmount_transaction,
          not_clean);
}

} // namespace kvmport
