#!/bin/sh
# Refuses an include that points the wrong way: one line per folder, and one per
# vendor header that belongs in one place.
bad=0

check() { # folder, what it may include (ERE alternation)
    grep -rnE '#include "(base|model|api|client|server)/' "$1" |
        grep -vE "#include \"($2)" && bad=1
}
only() { # header, where it may be included (ERE of file names)
    grep -rnE "#include <$1" base model api client server |
        grep -vE "^($2)" && bad=1
}

check base base/
check api 'api/|base/'
check model 'model/|base/'
check client 'client/|api/|base/'
check server 'server/|api/|model/|base/'
# Within the server: transport knows no method, a method no transport, and what
# stores, trains and infers neither.
check server/http 'server/(http/|(log|metrics)\.h)|api/|base/'
check server/calls 'server/(calls/|http/http\.h|inference/faces\.h|methods/handlers\.h|store/store\.h|(app|auth|late|local|log|mailbox|ops)\.h)|api/|base/'
check server/store 'server/(store/|inference/gallery\.h)|base/'
check server/datasets 'server/(datasets/|store/|calls/message\.h|config\.h)|api/|model/|base/'
check server/inference 'server/(inference/|store/|(app|late|log|mailbox|metrics)\.h)|api/|model/|base/'
check server/jobs 'server/(jobs/|datasets/|inference/|store/|calls/(answer|call|message|streams)\.h|(app|config|log)\.h)|api/|model/|base/'
check server/methods 'server/(methods/|jobs/|inference/|calls/|(app|auth|late|log|metrics)\.h)|api/|model/|base/'

only 'oneapi/dnnl' 'model/backends/cpu/'
only 'microhttpd' 'server/http/http_parts\.h'
only 'nghttp2' 'server/http/h2[^/]*\.[ch]'
only 'gnutls' 'server/http/h2_tls\.c'
only 'uv\.h' 'server/|client/example_uv\.c'
only 'sqlite3' 'server/store/store_sqlite\.c'
only 'libpq' 'server/store/store_postgres\.c'
only 'archive' 'server/datasets/archive\.c'
only 'turbojpeg' 'model/vision/'
only 'spng' 'model/vision/'
only 'libexif' 'model/vision/'
only 'curl/' 'client/'
only '(cuda|cudnn|cublas|nccl)' 'model/backends/cuda/'

# What waits for a whole device fails, and spoils the recording, while another
# thread records on one of its streams.
grep -rnE 'cudaDeviceSynchronize|cudaMemcpy *\(|cudaMemset *\(' model && bad=1

[ $bad = 0 ] || echo "layers: an include points the wrong way, or a call is not for here" >&2
exit $bad
