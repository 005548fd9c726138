# A stand-in for apt-get in tests: sh fake-apt.sh DIR ARGUMENTS...
# DIR has the packages as NAME.deb. Every operation is noted in DIR/calls. `update` fails with the text of
# DIR/update-fails if there is one; `download` knows the packages only once DIR/stale is gone, which `update`
# takes away.
dir=$1
shift
while :; do
    case $1 in
    -qq) shift ;;
    -c) conf=$2; shift 2 ;;
    *) break ;;
    esac
done
operation=$1
shift
echo "$operation $*" >>"$dir/calls"
case $operation in
update)
    if [ -e "$dir/update-fails" ]; then
        cat "$dir/update-fails" >&2
        exit 100
    fi
    echo dlstatus:1:50.0000:Retrieving file 1 of 1
    rm -f "$dir/stale"
    : >"${conf%/*}/lists/fake_Packages"
    ;;
download)
    for package; do
        if [ -e "$dir/stale" ] || [ ! -e "$dir/${package%%=*}.deb" ]; then
            echo "E: Unable to locate package ${package%%=*}" >&2
            exit 100
        fi
        echo dlstatus:1:0.0000:Retrieving file 1 of 1
        cp "$dir/${package%%=*}.deb" "${package%%=*}_1_amd64.deb"
    done
    ;;
esac
