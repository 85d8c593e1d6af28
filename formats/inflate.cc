// SPDX-License-Identifier: Apache-2.0
#include "formats/inflate.h"

#include <libdeflate.h>
#include <zlib.h>
#include <zstd.h>

namespace kvmport {

struct BlockDecoder::Impl {
  std::unique_ptr<libdeflate_decompressor, decltype(&libdeflate_free_decompressor)> deflate{
      libdeflate_alloc_decompressor(), &libdeflate_free_decompressor};
  std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> zstd{nullptr, &ZSTD_freeDCtx};
};

BlockDecoder::BlockDecoder() : impl_(std::make_unique<Impl>()) {
  if (!impl_->deflate)
    throw std::bad_alloc();
}
BlockDecoder::~BlockDecoder() = default;

namespace {

/// zlib is the reference where libdeflate is stricter.
bool zlib_deflate_exact(ByteSpan in, std::span<std::byte> out) {
  z_stream stream{};
  if (inflateInit2(&stream, -MAX_WBITS) != Z_OK)
    throw std::bad_alloc();
  const std::unique_ptr<z_stream, decltype(&inflateEnd)> guard(&stream, &inflateEnd);
  // zlib's interface is not const-correct; it only reads.
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(in.data()));
  stream.avail_in = static_cast<uInt>(in.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  return ::inflate(&stream, Z_FINISH) == Z_STREAM_END && stream.avail_out == 0;
}

} // namespace

bool BlockDecoder::deflate_exact(ByteSpan in, std::span<std::byte> out) {
  std::size_t used = 0, produced = 0;
  const libdeflate_result result = libdeflate_deflate_decompress_ex(impl_->deflate.get(), in.data(), in.size(),
                                                                    out.data(), out.size(), &used, &produced);
  if (result == LIBDEFLATE_SUCCESS)
    return produced == out.size();
  return result == LIBDEFLATE_BAD_DATA && zlib_deflate_exact(in, out);
}

bool BlockDecoder::zlib(ByteSpan in, std::span<std::byte> out, std::size_t& produced) {
  std::size_t used = 0;
  return libdeflate_zlib_decompress_ex(impl_->deflate.get(), in.data(), in.size(), out.data(), out.size(), &used,
                                       &produced) == LIBDEFLATE_SUCCESS;
}

bool BlockDecoder::zstd_exact(ByteSpan in, std::span<std::byte> out) {
  if (!impl_->zstd) {
    impl_->zstd.reset(ZSTD_createDCtx());
    if (!impl_->zstd)
      throw std::bad_alloc();
    constexpr int window_log = 24; // a cluster has 2^21 bytes at most
    ZSTD_DCtx_setParameter(impl_->zstd.get(), ZSTD_d_windowLogMax, window_log);
  }
  ZSTD_DCtx_reset(impl_->zstd.get(), ZSTD_reset_session_only);
  const std::size_t frame = ZSTD_findFrameCompressedSize(in.data(), in.size());
  if (ZSTD_isError(frame) == 0)
    return ZSTD_decompressDCtx(impl_->zstd.get(), out.data(), out.size(), in.data(), frame) == out.size();
  // Streams that were never ended, and frames of other layouts: whatever fills the block counts, as in QEMU.
  ZSTD_inBuffer input{in.data(), in.size(), 0};
  ZSTD_outBuffer output{out.data(), out.size(), 0};
  while (output.pos < output.size) {
    const std::size_t before = input.pos + output.pos;
    const std::size_t left = ZSTD_decompressStream(impl_->zstd.get(), &output, &input);
    if (ZSTD_isError(left) != 0 || (input.pos + output.pos == before && output.pos < output.size))
      return false;
  }
  return true;
}

} // namespace kvmport
