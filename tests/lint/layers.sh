#!/bin/sh
# Refuses an include that points the wrong way: one line per folder, and one per
# vendor header that belongs in one place.
bad=0

check() { # folder, folders that it may include (ERE alternation)
    grep -rnE '#include "(base|model|api|client|server)/' "$1" |
        grep -vE "#include \"($2)/" && bad=1
}
only() { # header, where it may be included (ERE of file names)
    grep -rnE "#include <$1" base model api client server |
        grep -vE "^($2)" && bad=1
}

check base base
check api 'api|base'
check model 'model|base'
check client 'client|api|base'
check server 'server|api|model|base'

only 'oneapi/dnnl' 'model/backends/cpu/'
only 'microhttpd' 'server/http[^/]*\.c|server/http_parts\.h'
only 'nghttp2' 'server/h2[^/]*\.[ch]'
only 'gnutls' 'server/h2_tls\.c'
only 'uv\.h' 'server/|client/example_uv\.c'
only 'sqlite3' 'server/store_sqlite\.c'
only 'libpq' 'server/store_postgres[^/]*\.c'
only 'archive' 'server/archive\.c'
only 'turbojpeg' 'model/vision/'
only 'spng' 'model/vision/'
only 'libexif' 'model/vision/'
only 'curl/' 'client/'
only '(cuda|cudnn|cublas|nccl)' 'model/backends/cuda/'

[ $bad = 0 ] || echo "layers: an include points the wrong way" >&2
exit $bad
