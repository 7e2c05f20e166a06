// Text as manifest.json: as it is, and with its digest put right. Its canonical form must be read as the same.
#include "bundle/manifest.hpp"
#include "held.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    using namespace held;
    const std::string text(reinterpret_cast<const char *>(data), size);
    taken([&] { Manifest::read(text); });
    if (const std::optional<Value> value = parse(text)) {
        const std::optional<Value> again = parse(canonical(*value));
        must(again && canonical(*again) == canonical(*value));
        must(is_utf8(repr(*value, false, 60)));
        taken([&] {
            const Manifest manifest = Manifest::read(sealed(*value));
            for (const auto &[name, graph] : manifest.graphs)
                for (const auto &specs : {graph.inputs, graph.outputs})
                    for (const Spec &spec : specs) must(spec.nbytes() > 0 && !spec.shown().empty());
            must(manifest.keep > 0 && manifest.keep <= manifest.patches() * manifest.tiles);
        });
    }
    return 0;
}
