// SPDX-License-Identifier: Apache-2.0
#include "libconvert/clone/description_run.h"

#include "base/error.h"
#include "libconvert/clone/clone_name.h"
#include "libconvert/machine/text.h"

#include <algorithm>
#include <filesystem>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

bool is_word(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c & 0x80) != 0;
}

/// Position of `word` in `text` with no letter or digit around it.
std::size_t find_word(std::string_view text, std::string_view word) {
  if (word.empty())
    return std::string_view::npos;
  for (std::size_t at = text.find(word); at != std::string_view::npos; at = text.find(word, at + 1)) {
    const std::size_t end = at + word.size();
    if ((at == 0 || !is_word(text[at - 1])) && (end == text.size() || !is_word(text[end])))
      return at;
  }
  return std::string_view::npos;
}

/// Warnings end in logs and reports.
std::string without_password(std::string line) {
  for (std::size_t at = line.find("passwd"); at != std::string::npos; at = line.find("passwd", at + 1)) {
    const std::size_t open = line.find_first_of("\"'", at);
    if (open == std::string::npos)
      break;
    const std::size_t close = std::min(line.find(line[open], open + 1), line.size()); // a long line is cut
    line.replace(open + 1, close - open - 1, "***");
  }
  return line;
}

} // namespace

DescriptionRun::DescriptionRun(const std::string& xml, const std::string& source, const DescriptionRequest& request,
                               TakenIdentities& taken)
    : request_(request), taken_(taken), editor_(xml, source) {
  check_source(source);
}

void DescriptionRun::check_source(const std::string& source) {
  if (domain().name == "domstatus")
    throw Error("SOURCE_RUNNING", source + " is the state of a running machine", "its root element is domstatus",
                "shut it down and give its domain XML");
  if (domain().name != "domain")
    throw Error("DESCRIPTION_INVALID", source + " is not a libvirt domain",
                "its root element is " + printable(domain().name, 80));
  if (const XmlNode* name = domain().child("name"))
    source_name_ = trimmed(name->text);
  if (const XmlNode* uuid = domain().child("uuid"))
    source_uuid_ = trimmed(uuid->text);
}

void DescriptionRun::claim_request() {
  check_name(request_.name);
  if (!taken_.claim(Identity::name, request_.name))
    throw Error("NAME_IN_USE", "there is a machine named " + printable(request_.name, 80) + " already", "",
                "choose another name");
  if (!request_.uuid) {
    result_.uuid = new_uuid(taken_);
  } else {
    const auto uuid = parse_uuid(*request_.uuid);
    if (!uuid)
      throw Error("UUID_INVALID", "\"" + printable(*request_.uuid, 80) + "\" is not a UUID");
    if (!taken_.claim(Identity::uuid, *uuid))
      throw Error("UUID_IN_USE", "UUID " + *uuid + " belongs to another machine", "", "leave it out for a new one");
    result_.uuid = *uuid;
  }
  if (const auto old = parse_uuid(source_uuid_))
    remember(Identity::uuid, *old, result_.uuid);
}

DescriptionResult DescriptionRun::run() {
  taken_.add_domain(domain());
  claim_request();
  for (const DescriptionRule& rule : description_rules()) {
    rule_ = rule.name;
    rule.apply(*this);
  }
  rule_ = "leftover";
  warn_leftovers();
  result_.xml = editor_.result();
  return std::move(result_);
}

std::vector<const XmlNode*> DescriptionRun::select(std::initializer_list<std::string_view> names) const {
  std::vector<const XmlNode*> nodes = {&domain()};
  for (std::string_view name : names) {
    std::vector<const XmlNode*> next;
    for (const XmlNode* node : nodes)
      for (const XmlNode* child : node->all(name))
        next.push_back(child);
    nodes = std::move(next);
  }
  return nodes;
}

std::vector<const XmlNode*> DescriptionRun::anywhere(const XmlNode& from, std::string_view name) const {
  std::vector<const XmlNode*> found;
  const std::function<void(const XmlNode&)> visit = [&](const XmlNode& node) {
    for (const auto& child : node.children) {
      if (child->name == name)
        found.push_back(child.get());
      visit(*child);
    }
  };
  visit(from);
  return found;
}

void DescriptionRun::record(const XmlNode& node, std::size_t line, std::string_view attribute, std::string before,
                            std::string after, const std::string& reason) {
  std::string what = node.path();
  if (!attribute.empty())
    what += "@" + std::string(attribute);
  result_.changes.push_back({rule_, line, what, std::move(before), std::move(after), reason});
}

void DescriptionRun::set_attribute(const XmlNode& node, std::string_view name, const std::string& value,
                                   const std::string& reason) {
  const XmlNodeAttribute* old = node.find(name);
  if (old != nullptr && old->value == value)
    return;
  editor_.set_attribute(node, name, value);
  record(node, old == nullptr ? node.line : editor_.line_of(old->quoted.begin), name, node.attribute(name), value,
         reason);
}

void DescriptionRun::remove_attribute(const XmlNode& node, std::string_view name, const std::string& reason) {
  const XmlNodeAttribute* old = node.find(name);
  if (old == nullptr)
    return;
  editor_.remove_attribute(node, name);
  record(node, editor_.line_of(old->quoted.begin), name, old->value, "", reason);
}

void DescriptionRun::set_text(const XmlNode& node, const std::string& value, const std::string& reason) {
  if (node.text == value)
    return;
  editor_.set_text(node, value);
  record(node, node.line, "", std::string(trimmed(node.text)), value, reason);
}

void DescriptionRun::remove(const XmlNode& node, const std::string& reason) {
  editor_.remove_element(node);
  record(node, node.line, "", editor_.text().substr(node.whole.begin, node.whole.end - node.whole.begin), "", reason);
}

void DescriptionRun::replace(const XmlNode& node, const std::string& xml, const std::string& reason) {
  editor_.replace_element(node, xml);
  record(node, node.line, "", editor_.text().substr(node.whole.begin, node.whole.end - node.whole.begin), xml, reason);
}

void DescriptionRun::insert_child(const XmlNode& parent, const std::string& xml, const std::string& name,
                                  const std::string& value, const std::string& reason) {
  editor_.insert_child(parent, xml);
  const std::string above = parent.path();
  result_.changes.push_back({rule_, parent.line, (above.empty() ? "" : above + "/") + name, "", value, reason});
}

void DescriptionRun::warn_at(std::size_t offset, const std::string& message) {
  result_.warnings.push_back({rule_, editor_.line_of(offset), without_password(editor_.quote(offset)), message});
}

std::string DescriptionRun::where(const XmlNode& node) const {
  return "line " + std::to_string(node.line) + ": " + without_password(editor_.quote(node.start_tag.begin));
}

std::string DescriptionRun::renewed_uuid(const std::string& old) {
  std::string& value = renewal(Identity::uuid, parse_uuid(old).value_or(old));
  if (value.empty())
    value = new_uuid(taken_);
  return value;
}

std::string DescriptionRun::renewed_serial(const std::string& old) {
  if (old.empty())
    return "";
  if (parse_uuid(old))
    return renewed_uuid(old);
  std::string& value = renewal(Identity::serial, old);
  if (value.empty())
    value = new_serial(taken_);
  return value;
}

std::string DescriptionRun::renewed_wwn(const std::string& old) {
  std::string& value = renewal(Identity::wwn, lower(old));
  if (value.empty())
    value = new_wwn(taken_, old);
  return value;
}

std::string DescriptionRun::renewed_path(const std::string& old) {
  return renewed_path(old, request_.files_directory.empty() ? fs::path(old).parent_path().string()
                                                            : request_.files_directory);
}

std::string DescriptionRun::renewed_path(const std::string& old, const std::string& directory) {
  std::string& value = renewal(Identity::path, old);
  if (value.empty())
    value = new_by_number(taken_, Identity::path,
                          (fs::path(directory) / renamed(fs::path(old).filename().string())).string());
  return value;
}

std::optional<std::string> DescriptionRun::renewed_port(const std::string& old) {
  const auto number = parse_number(old);
  if (!number || *number == 0 || *number > 65535)
    return std::nullopt;
  std::string& value = renewal(Identity::port, std::to_string(*number));
  if (value.empty())
    value = std::to_string(new_port(taken_, static_cast<std::uint16_t>(*number)));
  return value;
}

std::string DescriptionRun::renewed_net_device(const std::string& old) {
  std::string& value = renewal(Identity::net_device, old);
  if (value.empty())
    value = new_net_device(taken_, old);
  return value;
}

std::string DescriptionRun::renamed(const std::string& old) const {
  const std::size_t at = find_word(old, source_name_);
  if (at == std::string::npos)
    return request_.name + "-" + old;
  return old.substr(0, at) + request_.name + old.substr(at + source_name_.size());
}

std::map<std::string, std::string, std::less<>> DescriptionRun::renewed_words() const {
  constexpr std::size_t shortest = 8; // shorter values stand in many places by chance
  std::map<std::string, std::string, std::less<>> words;
  for (const auto& [old, value] : renewals_)
    if (old.second.size() >= shortest && old.first != Identity::port && old.first != Identity::net_device)
      words.emplace(lower(old.second), value);
  return words;
}

/// What a rule made new and still stands somewhere as a word: in the metadata of a tool, a description, a comment.
void DescriptionRun::warn_leftovers() {
  const auto words = renewed_words();
  std::set<std::size_t> warned;
  for (const DescriptionWarning& warning : result_.warnings)
    warned.insert(warning.line);
  const std::string text = lower(editor_.text());
  for (const ByteRange& range : editor_.kept())
    each_word(text, range, [&](ByteRange place) {
      const std::string_view word = std::string_view(text).substr(place.begin, place.end - place.begin);
      if (words.contains(word) && warned.insert(editor_.line_of(place.begin)).second)
        warn_at(place.begin, "an identity of the source stands here: " + std::string(word));
    });
}

void each_word(std::string_view text, ByteRange range, const std::function<void(ByteRange)>& see) {
  constexpr std::string_view around = " \t\r\n\"'<>()[]{}=,;";
  text = text.substr(0, range.end);
  for (std::size_t at = text.find_first_not_of(around, range.begin); at != std::string_view::npos;) {
    const std::size_t end = std::min(text.find_first_of(around, at), range.end);
    see({at, end});
    at = text.find_first_not_of(around, end);
  }
}

void check_socket_path(const std::string& path) {
  constexpr std::size_t longest = 107; // sockaddr_un::sun_path and its NUL
  if (path.size() > longest)
    throw Error("PATH_TOO_LONG", printable(path, 240) + " is too long for a Unix socket",
                std::to_string(path.size()) + " bytes, at most " + std::to_string(longest),
                "choose a shorter directory for the clone's files or a shorter name");
}

} // namespace kvmport
