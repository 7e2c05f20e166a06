// What of a bundle is read, and that no byte of it can turn without being noticed.
#include <thread>
#include <vector>

#include <sys/stat.h>

#include "bundle/bundle.hpp"
#include "bundle/places.hpp"
#include "bundle/value.hpp"
#include "check.hpp"
#include "made.hpp"

namespace {

using namespace edgeprune;
using check::refusal;

void fields_are_read() {
    const made::Folder folder;
    made::bundle(folder);
    const Bundle bundle = Bundle::open(folder.text());
    const Manifest &manifest = bundle.manifest;
    check::same(manifest.schema, "2.0");
    check::same(manifest.method, "fastervlm");
    check::same(manifest.model, "owner/näme");
    check::same(manifest.keep, 5);
    check::same(manifest.patches(), 24);
    check::same(manifest.tiles, 2);
    check::same(manifest.encoder().inputs.at(0).shown(), "float16 [batch, 3, 32, 48]");
    check::same(manifest.encoder().inputs.at(0).nbytes(), std::size_t{2 * 3 * 32 * 48});
    check::same(manifest.encoder().outputs.at(2).name, "scores");
    check::holds(manifest.steps == std::vector<std::pair<int, int>>{{2, 12}, {3, 5}});
    check::same(manifest.labels.at(1), "ä😀");
    check::holds(manifest.nested && !manifest.tiled() && !manifest.pooled() && manifest.gives() == Gives::TOKENS);
    check::same(manifest.preprocessing.at("rescale").get<double>(), 1.0 / 255);
    check::same(manifest.rule.at("name").get<std::string>(), "topk");
    check::same(bundle.file("encoder.data").size(), std::size_t{64});
    check::same(bundle.path("encoder.data"), folder.text() + "/encoder.data");
    check::same(bundle.weights("encoder.onnx").at("encoder.data"), "encoder.data");
    const std::string said = refusal([&] { bundle.file("plan"); });
    check::same(said, folder.text() + " has no file plan; it has encoder.data, encoder.onnx");
}

void a_file_in_it_means_the_folder() {
    const made::Folder folder;
    made::bundle(folder);
    check::same(Bundle::open(folder.text() + "//./encoder.onnx").folder, folder.text());
    check::same(refusal([] { Bundle::open("owner/name@main"); }),
                "owner/name@main is no folder, and this library does not look into the Hugging Face cache; give the "
                "folder that `hf download owner/name` prints");
}

void names_of_any_bytes_open() {
    const made::Folder folder;
    const std::string odd = folder.text() + "/a\xff\nb";
    made::fs::create_directory(odd);
    check::same(refusal([&] { Bundle::open(odd); }), folder.text() + "/a\\xff\\nb is not a bundle: it has no readable "
                                                     "manifest.json; make one with `edgeprune export`");
    made::bundle(folder);
    for (const char *name : {"encoder.onnx", "encoder.data", "manifest.json"}) made::fs::copy(folder / name, odd);
    chmod(odd.c_str(), 0555);
    check::same(Bundle::open(odd).folder, odd);
    chmod(odd.c_str(), 0755);
}

// Every bit of every file, every length that it may be cut to, and a byte more.
void no_byte_may_turn() {
    const made::Folder folder;
    made::bundle(folder);
    for (const std::string name : {"encoder.onnx", "encoder.data"}) {
        const std::string whole = made::read(folder / name);
        const auto refused = [&](const std::string &content, const std::string &why) {
            made::write(folder / name, content);
            const std::string said = refusal([&] { Bundle::open(folder.text()); });
            check::holds(said.find(folder.text() + ": " + name + why) == 0);
        };
        for (std::size_t bit = 0; bit < 8 * whole.size(); ++bit) {
            std::string turned = whole;
            turned[bit / 8] = static_cast<char>(turned[bit / 8] ^ (1 << bit % 8));
            refused(turned, " has changed since the export (sha256 differs)");
        }
        for (std::size_t length = 0; length < whole.size(); ++length)
            refused(whole.substr(0, length), " has " + std::to_string(length) + " bytes");
        refused(whole + whole[0], " has " + std::to_string(whole.size() + 1) + " bytes");
        made::fs::remove(folder / name);
        check::same(refusal([&] { Bundle::open(folder.text()); }),
                    folder.text() + ": " + name + " is missing; copy the whole bundle");
        made::write(folder / name, whole);
    }
    check::same(refusal([&] { Bundle::open(folder.text()); }), "");
}

// Of the manifest, another space between two tokens changes nothing: then it must say the same. Each bit of it, and
// bytes that mean something in JSON, at each place.
void no_byte_of_the_manifest_may_turn() {
    const std::string whole = made::manifest("encoder", "data");
    const std::string says = canonical(*parse(whole));
    std::size_t same = 0;
    for (std::size_t at = 0; at < whole.size(); ++at) {
        std::string others(" \"\\{}[],:0-e\0\xff", 14);
        for (int bit = 0; bit < 8; ++bit) others += static_cast<char>(whole[at] ^ (1 << bit));
        for (const char other : others) {
            std::string turned = whole;
            turned[at] = other;
            if (turned == whole) continue;
            const std::string said = refusal([&] { Manifest::read(turned); });
            if (said.empty()) ++same, check::same(canonical(*parse(turned)), says);
            else check::holds(said.find("manifest.json") == 0 && said.find('\n') == std::string::npos);
        }
        check::holds(!refusal([&] { Manifest::read(whole.substr(0, at)); }).empty());
    }
    check::holds(same < 1000);
}

void sizes_alone_are_checked_where_hashes_are_not_wanted() {
    const made::Folder folder;
    made::bundle(folder);
    made::write(folder / "encoder.data", std::string(64, 'v'));
    check::holds(!refusal([&] { Bundle::open(folder.text()); }).empty());
    check::same(refusal([&] { Bundle::open(folder.text(), false); }), "");
    made::write(folder / "encoder.data", std::string(63, 'w'));
    check::holds(!refusal([&] { Bundle::open(folder.text(), false); }).empty());
}

// Each for itself, and all of them one.
void threads_open_and_share() {
    const made::Folder folder;
    made::bundle(folder);
    const Bundle shared = Bundle::open(folder.text());
    std::vector<std::thread> threads;
    std::vector<std::string> said(4);
    for (std::string &one : said)
        threads.emplace_back([&] {
            for (int round = 0; round < 20; ++round) {
                one += refusal([&] { Bundle::open(folder.text()); });
                one += refusal([&] { one += shared.weights("encoder.onnx").begin()->second.substr(12); });
                one += repr(0.5).substr(3);
            }
        });
    for (std::thread &thread : threads) thread.join();
    for (const std::string &one : said) check::same(one, "");
}

void names_are_spelt_as_python_spells_them() {
    check::same(normal("a//b/./c/"), "a/b/c");
    check::same(normal("./"), ".");
    check::same(normal("//a"), "//a");
    check::same(normal("///a"), "/a");
    check::same(parent("a"), ".");
    check::same(parent("/a"), "/");
    check::same(parent("a/b/"), "a");
    check::same(join(".", "x/./y"), "x/y");
    check::same(join("a", "/etc"), "/etc");
    for (const char *name : {"..", "a/..", "/a", "//a", "a\\b", "c:"}) check::holds(leaves(name));
    for (const char *name : {"", ".", "a..b", "...", "a/b"}) check::holds(!leaves(name));
}

}  // namespace

int main() {
    fields_are_read();
    a_file_in_it_means_the_folder();
    names_of_any_bytes_open();
    no_byte_may_turn();
    no_byte_of_the_manifest_may_turn();
    sizes_alone_are_checked_where_hashes_are_not_wanted();
    threads_open_and_share();
    names_are_spelt_as_python_spells_them();
    return check::done();
}
