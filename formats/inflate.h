// SPDX-License-Identifier: Apache-2.0
// Decompression of one block at a time, as qcow2 and VMDK need it, and a pool so that each thread re-uses a warm
// decoder instead of making one per block.
#pragma once

#include "base/bytes.h"

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

namespace kvmport {

/// Decoders for one thread at a time. Errors are false, not exceptions: the caller knows which block it was.
class BlockDecoder {
 public:
  BlockDecoder();
  ~BlockDecoder();
  BlockDecoder(const BlockDecoder&) = delete;
  BlockDecoder& operator=(const BlockDecoder&) = delete;

  /// Raw deflate (RFC 1951), bytes after the end of the stream are ignored; true when it gives exactly out.size()
  /// bytes.
  bool deflate_exact(ByteSpan in, std::span<std::byte> out);
  /// One zlib stream (RFC 1950) with checksum; `produced` ≤ out.size(). Bytes after its end are ignored.
  bool zlib(ByteSpan in, std::span<std::byte> out, std::size_t& produced);
  /// One zstd frame, bytes after it are ignored; true when it gives exactly out.size() bytes.
  bool zstd_exact(ByteSpan in, std::span<std::byte> out);

  /// Scratch space that stays allocated between uses.
  Bytes& input() { return input_; }
  Bytes& output() { return output_; }

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
  Bytes input_, output_;
};

/// Lends objects of one kind to threads and keeps them for the next.
template <class T> class Pool {
 public:
  using Make = std::function<std::unique_ptr<T>()>;
  explicit Pool(Make make = [] { return std::make_unique<T>(); }) : make_(std::move(make)) {}

  class Lease {
   public:
    Lease(Pool& pool, std::unique_ptr<T> object) : pool_(&pool), object_(std::move(object)) {}
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    ~Lease() {
      const std::lock_guard lock(pool_->mutex_);
      pool_->free_.push_back(std::move(object_));
    }
    T& operator*() const { return *object_; }
    T* operator->() const { return object_.get(); }

   private:
    Pool* pool_;
    std::unique_ptr<T> object_;
  };

  Lease take() {
    {
      const std::lock_guard lock(mutex_);
      if (!free_.empty()) {
        auto object = std::move(free_.back());
        free_.pop_back();
        return {*this, std::move(object)};
      }
    }
    return {*this, make_()};
  }

 private:
  Make make_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<T>> free_;
};

} // namespace kvmport
