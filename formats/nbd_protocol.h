// SPDX-License-Identifier: Apache-2.0
// Numbers of the NBD protocol, as in https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md; all fields are
// big-endian on the wire.
#pragma once

#include <cstdint>

namespace kvmport::nbd {

inline constexpr std::uint64_t init_magic = 0x4e42444d41474943;   // "NBDMAGIC"
inline constexpr std::uint64_t option_magic = 0x49484156454f5054; // "IHAVEOPT"
inline constexpr std::uint64_t option_reply_magic = 0x0003e889045565a9;
inline constexpr std::uint32_t request_magic = 0x25609513;
inline constexpr std::uint32_t reply_magic = 0x67446698;

// Handshake flags, the same bits in both directions.
inline constexpr std::uint32_t flag_fixed_newstyle = 1, flag_no_zeroes = 2;

enum class Option : std::uint32_t { export_name = 1, abort = 2, list = 3, info = 6, go = 7 };

inline constexpr std::uint32_t rep_ack = 1, rep_server = 2, rep_info = 3;
inline constexpr std::uint32_t rep_err_unsup = 0x80000001, rep_err_invalid = 0x80000003, rep_err_unknown = 0x80000006;
inline constexpr std::uint16_t info_export = 0, info_block_size = 3;

// Transmission flags of the export.
inline constexpr std::uint16_t has_flags = 1, send_flush = 1 << 2, send_fua = 1 << 3, send_trim = 1 << 5,
                               send_write_zeroes = 1 << 6, can_multi_conn = 1 << 8;

enum class Command : std::uint16_t { read = 0, write = 1, disconnect = 2, flush = 3, trim = 4, write_zeroes = 6 };
inline constexpr std::uint16_t command_fua = 1, command_no_hole = 2;

inline constexpr std::uint32_t err_io = 5, err_invalid = 22, err_no_space = 28;

inline constexpr std::uint32_t max_payload = 32U << 20;
inline constexpr std::uint32_t max_option = 64U << 10;

} // namespace kvmport::nbd
