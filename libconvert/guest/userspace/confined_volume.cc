// SPDX-License-Identifier: Apache-2.0
// libext2fs reads what a hostile guest may have written, so it works in a child process that can do nothing but compute
// and ask: calls of Volume go to the child as messages; while the child works on one, it asks for bytes of the
// filesystem and sends those that it writes, and the parent, who alone has the overlay, checks each place.
#include "base/sandbox.h"
#include "libconvert/guest/userspace/volume.h"

#include <cstring>
#include <malloc.h>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <sys/mman.h>
#include <sys/socket.h>
#include <type_traits>
#include <unistd.h>

namespace kvmport {
namespace {

using nlohmann::json;

constexpr std::uint64_t most_content = 1ULL << 30, most_words = 64U << 20, most_block = 4U << 20, packet = 96U << 10;
constexpr std::chrono::seconds most_cpu{600};
constexpr std::uint64_t most_memory = 1U << 30;

enum class What : std::uint8_t {
  call,   ///< to the child: [method, arguments…], content of a file
  answer, ///< from the child: result, content of a file
  error,  ///< from the child: [code, summary, why, hint]
  read,   ///< from the child: [offset, length]
  bytes,  ///< to the child: what was read, as content
  write,  ///< from the child: [offset], what to write as content
  failed, ///< to the child: the disk can't be read or written there
};

struct Message {
  What what = What::failed;
  json words;
  std::string content;
};

/// Messages over a socket of type SOCK_SEQPACKET: sizes, words (CBOR) and content, in one packet if they fit. Each
/// packet costs a change of process, more than what is in it.
class Channel {
 public:
  explicit Channel(int socket) : socket_(socket) {}

  /// False when nobody is there any more.
  bool send(What what, const json& words, std::string_view content = {}) {
    const Head head{what, 0, content.size()};
    out_.assign(reinterpret_cast<const char*>(&head), sizeof head);
    json::to_cbor(words, out_);
    const std::uint64_t packed = out_.size() - sizeof head;
    std::memcpy(out_.data() + offsetof(Head, words), &packed, sizeof packed);
    if (out_.size() + content.size() <= packet)
      return put(out_.append(content));
    return put(out_) && put(content);
  }
  /// Nothing as well when it is too long or makes no sense.
  std::optional<Message> receive() {
    std::string_view rest(in_.data(), get(in_));
    Head head;
    if (rest.size() < sizeof head)
      return std::nullopt;
    std::memcpy(&head, rest.data(), sizeof head);
    rest.remove_prefix(sizeof head);
    if (head.words > most_words || head.content > most_content)
      return std::nullopt;
    Message message;
    message.what = head.what;
    std::string packed;
    if (!fill(packed, head.words, rest) || !fill(message.content, head.content, rest) || !rest.empty())
      return std::nullopt;
    message.words = json::from_cbor(packed, true, false);
    return message.words.is_discarded() ? std::nullopt : std::optional(std::move(message));
  }

 private:
  struct Head {
    What what = What::failed;
    std::uint64_t words = 0, content = 0; ///< bytes
  };
  bool put(std::string_view bytes) const {
    while (!bytes.empty()) {
      const std::string_view part = bytes.substr(0, packet);
      const ssize_t n = ::send(socket_, part.data(), part.size(), MSG_NOSIGNAL);
      if (n < 0 && errno == EINTR)
        continue;
      if (n != static_cast<ssize_t>(part.size()))
        return false;
      bytes.remove_prefix(part.size());
    }
    return true;
  }
  std::size_t get(std::span<char> into) const {
    ssize_t got = 0;
    do
      got = ::recv(socket_, into.data(), into.size(), 0);
    while (got < 0 && errno == EINTR);
    return got < 0 ? 0 : static_cast<std::size_t>(got);
  }
  /// `size` bytes, the first of them from `there`.
  bool fill(std::string& text, std::uint64_t size, std::string_view& there) const {
    text = there.substr(0, size);
    there.remove_prefix(text.size());
    std::size_t at = text.size();
    for (text.resize(size); at < text.size();) {
      const std::size_t got = get(std::span(text).subspan(at));
      if (got == 0)
        return false;
      at += got;
    }
    return true;
  }

  int socket_;
  std::string out_;                                  ///< head and words
  std::vector<char> in_ = std::vector<char>(packet); ///< the first packet of a message
};

/// Before the first use of much memory: page by page it costs more than what is done with it on some hosts.
void prefer_huge_pages(void* memory, std::size_t bytes) {
  constexpr std::size_t page = 4096;
  void* first = memory;
  if (bytes > 2 * page && std::align(page, bytes - page, first, bytes) != nullptr)
    (void)::madvise(first, bytes / page * page, MADV_HUGEPAGE); // a wish only
}

json binary(std::string_view text) {
  return json::binary({reinterpret_cast<const std::uint8_t*>(text.data()),
                       reinterpret_cast<const std::uint8_t*>(text.data()) + text.size()});
}
std::string text_of(const json& value) {
  const auto& bytes = value.get_binary();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// --- in the child ---

/// The filesystem's bytes, by way of the parent.
class AskedImage final : public WritableImage {
 public:
  AskedImage(Channel& parent, std::uint64_t size) : parent_(parent), size_(size) {}
  std::uint64_t size() const override { return size_; }
  ImageInfo info() const override { return {}; }
  std::vector<Extent> extents(Range range) const override { return {{range, ExtentKind::data}}; }
  void read(std::uint64_t offset, std::span<std::byte> out) const override {
    const std::string bytes = ask(parent_.send(What::read, {offset, out.size()}));
    if (bytes.size() != out.size())
      ::_exit(1);
    std::memcpy(out.data(), bytes.data(), bytes.size());
  }
  void write(std::uint64_t offset, ByteSpan data) override {
    ask(parent_.send(What::write, {offset}, {reinterpret_cast<const char*>(data.data()), data.size()}));
  }

 private:
  std::string ask(bool sent) const {
    auto message = sent ? parent_.receive() : std::nullopt;
    if (!message)
      ::_exit(0); // the parent has gone
    if (message->what != What::bytes)
      throw Error("GUEST_READ_FAILED", "the guest's disk can't be read or written");
    return std::move(message->content);
  }
  Channel& parent_;
  std::uint64_t size_;
};

json stat_json(const std::optional<FileStat>& stat) {
  if (!stat)
    return nullptr;
  return {static_cast<int>(stat->type), stat->mode, stat->uid, stat->gid, stat->size};
}

/// What came of a call; `content` is that of a file, in and out.
json serve(Volume& volume, const json& call, std::string& content) {
  const std::string in = std::exchange(content, {});
  const std::string method = call.at(0);
  const auto path = [&](std::size_t i) { return text_of(call.at(i)); };
  if (method == "lstat")
    return stat_json(volume.lstat(path(1)));
  if (method == "list") {
    json names = json::array();
    for (const std::string& name : volume.list(path(1)))
      names.push_back(binary(name));
    return names;
  }
  if (method == "read") {
    if (const auto places = volume.places(path(1), call.at(2))) {
      json found = json::array();
      for (const FilePlace& place : *places)
        found.push_back({place.offset ? json(*place.offset) : json(nullptr), place.length});
      return found;
    }
    content = volume.read(path(1), call.at(2));
    return nullptr;
  }
  if (method == "readlink")
    return binary(volume.readlink(path(1)));
  if (method == "label") {
    const auto label = volume.label(path(1));
    return label ? binary(*label) : json(nullptr);
  }
  if (method == "free_space")
    return volume.free_space().bytes;
  if (method == "rewrite")
    volume.rewrite(path(1), in);
  else if (method == "create")
    volume.create(path(1), in, call.at(2));
  else if (method == "append")
    volume.append(path(1), in);
  else if (method == "remove")
    volume.remove(path(1));
  else if (method == "rename")
    volume.rename(path(1), path(2));
  else if (method == "copy")
    volume.copy(path(1), path(2));
  else if (method == "symlink")
    volume.symlink(path(1), path(2));
  else if (method == "make_directory")
    volume.make_directory(path(1));
  else if (method == "set_label")
    volume.set_label(path(1), path(2));
  else if (method == "flush")
    volume.flush();
  return nullptr;
}

int work(int socket, std::uint64_t size) {
  ::mallopt(M_TRIM_THRESHOLD, 64 << 20); // each piece of the disk is freed at once: the next may have its memory
  SandboxLimits limits;
  limits.cpu = most_cpu;
  limits.memory = most_memory;
  limits.keep = {socket};
  enter_sandbox(limits);
  Channel parent(socket);
  AskedImage image(parent, size);
  std::string why_not;
  const auto volume = open_ext4_volume(image, {0, size}, why_not);
  if (!parent.send(What::answer, binary(why_not)) || !volume)
    return 0;
  while (auto call = parent.receive()) {
    json answer;
    What what = What::answer;
    try {
      answer = serve(*volume, call->words, call->content);
    } catch (const Error& error) {
      what = What::error;
      answer = {binary(error.code()), binary(error.summary()), binary(error.why()), binary(error.hint())};
    }
    if (!parent.send(what, answer, call->content))
      break;
  }
  return 0;
}

// --- in the parent ---

class ConfinedVolume final : public Volume {
 public:
  ConfinedVolume(WritableImage& disk, Range range, std::string& why_not)
      : disk_(disk), range_(range), child_([size = range.length](int socket) { return work(socket, size); }),
        channel_(child_.socket()) {
    why_not = understood([&] { return text_of(answer().words); });
  }

  std::optional<FileStat> lstat(const std::string& path) const override {
    const auto known = stats_.find(path);
    return known != stats_.end() ? known->second : stats_[path] = understood([&] { return ask_stat(path); });
  }
  std::vector<std::string> list(const std::string& directory) const override {
    return understood([&] {
      std::vector<std::string> names;
      for (const json& name : ask({"list", binary(directory)}).words)
        names.push_back(text_of(name));
      return names;
    });
  }
  std::string read(const std::string& path, std::uint64_t bytes) const override {
    Message found = ask({"read", binary(path), bytes});
    return found.words.is_null() ? std::move(found.content)
                                 : understood([&] { return read_places(found.words, bytes); });
  }
  std::string readlink(const std::string& path) const override {
    return understood([&] { return text_of(ask({"readlink", binary(path)}).words); });
  }
  std::optional<std::string> label(const std::string& path) const override {
    const json found = ask({"label", binary(path)}).words;
    return understood([&] { return found.is_null() ? std::nullopt : std::optional(text_of(found)); });
  }
  FreeSpace free_space() const override {
    return {"", understood([&] { return ask({"free_space"}).words.get<std::uint64_t>(); })};
  }

  void rewrite(const std::string& path, std::string_view content) override {
    change({"rewrite", binary(path)}, content);
  }
  void create(const std::string& path, std::string_view content, std::uint32_t mode) override {
    change({"create", binary(path), mode}, content);
  }
  void append(const std::string& path, std::string_view content) override { change({"append", binary(path)}, content); }
  void remove(const std::string& path) override { change({"remove", binary(path)}); }
  void rename(const std::string& from, const std::string& to) override { change({"rename", binary(from), binary(to)}); }
  void copy(const std::string& from, const std::string& to) override { change({"copy", binary(from), binary(to)}); }
  void symlink(const std::string& target, const std::string& path) override {
    change({"symlink", binary(target), binary(path)});
  }
  void make_directory(const std::string& path) override { change({"make_directory", binary(path)}); }
  void set_label(const std::string& path, const std::string& label) override {
    change({"set_label", binary(path), binary(label)});
  }
  void flush() override { ask({"flush"}); }

 private:
  std::optional<FileStat> ask_stat(const std::string& path) const {
    const json found = ask({"lstat", binary(path)}).words;
    if (found.is_null())
      return std::nullopt;
    FileStat stat;
    stat.type = static_cast<FileType>(std::clamp(found.at(0).get<int>(), 0, static_cast<int>(FileType::other)));
    stat.mode = found.at(1);
    stat.uid = found.at(2);
    stat.gid = found.at(3);
    stat.size = found.at(4);
    return stat;
  }

  /// A large file, which the child need not see.
  std::string read_places(const json& places, std::uint64_t bytes) const {
    std::uint64_t size = 0;
    for (const json& place : places) {
      const auto length = place.at(1).get<std::uint64_t>();
      if (length > std::min(bytes, most_content) - size)
        ended();
      size += length;
    }
    std::string content;
    content.reserve(size);
    prefer_huge_pages(content.data(), size);
    content.resize(size);
    std::span<std::byte> rest = std::as_writable_bytes(std::span(content));
    for (const json& place : places) {
      const auto length = place.at(1).get<std::uint64_t>();
      if (!place.at(0).is_null()) {
        const auto offset = place.at(0).get<std::uint64_t>();
        if (offset > range_.length || length > range_.length - offset)
          ended();
        disk_.read(range_.offset + offset, rest.first(length));
      }
      rest = rest.subspan(length);
    }
    return content;
  }

  void change(const json& call, std::string_view content = {}) {
    stats_.clear();
    ask(call, content);
  }
  Message ask(const json& call, std::string_view content = {}) const {
    if (!channel_.send(What::call, call, content))
      ended();
    return answer();
  }

  /// What `read` makes of an answer; one that makes no sense is no better than none.
  template <class Read> static std::invoke_result_t<Read> understood(Read read) {
    try {
      return read();
    } catch (const json::exception&) {
      ended();
    }
  }

  /// Does what the child asks for until it answers.
  Message answer() const {
    return understood([&]() -> Message {
      while (auto message = channel_.receive()) {
        switch (message->what) {
        case What::read:
        case What::write:
          if (!transfer(*message))
            ended();
          break;
        case What::answer:
          return std::move(*message);
        case What::error:
          throw Error(text_of(message->words.at(0)), text_of(message->words.at(1)), text_of(message->words.at(2)),
                      text_of(message->words.at(3)));
        default:
          ended();
        }
      }
      ended();
    });
  }

  bool transfer(const Message& message) const {
    const bool read = message.what == What::read;
    const auto offset = message.words.at(0).get<std::uint64_t>();
    const std::uint64_t length = read ? message.words.at(1).get<std::uint64_t>() : message.content.size();
    if (offset > range_.length || length > range_.length - offset || length > most_block)
      return false;
    std::string bytes;
    try {
      if (read) {
        bytes.resize(length);
        disk_.read(range_.offset + offset, std::as_writable_bytes(std::span(bytes)));
      } else {
        disk_.write(range_.offset + offset, as_bytes(message.content));
      }
    } catch (const Error&) {
      return channel_.send(What::failed, nullptr);
    }
    return channel_.send(What::bytes, nullptr, bytes);
  }

  [[noreturn]] static void ended() {
    throw Error("GUEST_READ_FAILED", "the reader of a guest's filesystem has ended",
                "it ran into its limits, or the filesystem made it fail");
  }

  WritableImage& disk_;
  const Range range_;
  ForkedChild child_;
  mutable Channel channel_;
  mutable std::map<std::string, std::optional<FileStat>> stats_; ///< every path is asked for part by part, often
};

} // namespace

std::unique_ptr<Volume> open_confined_ext4_volume(WritableImage& disk, Range range, std::string& why_not) {
  try {
    auto volume = std::make_unique<ConfinedVolume>(disk, range, why_not);
    return why_not.empty() ? std::move(volume) : nullptr;
  } catch (const Error& error) {
    why_not = error.what();
    return nullptr;
  }
}

} // namespace kvmport
